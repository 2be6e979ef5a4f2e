// A client of `/files/uploads` (tus 1.0.0) for browsers: an ES module as it is, without a build or a dependency.
// It goes on where the service says, after a lost line, a restart of the service, or a reload of the page.

const CHUNK_SIZE = 8 * 2 ** 20;
const SLOWEST = 16 * 1024; // bytes a second: slower ones are dead, and the service takes no slower ones either
const MAX_BEGINNINGS = 3;
// All times are milliseconds.
const PATIENCE = 60_000;
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 30_000;
const LONGEST_RETRY_AFTER = 300_000;
const DELETIONS = 5;

const TRY_AGAIN = [408, 409, 423, 425, 429]; // and 500 and above, but for 507: no room is not for a moment

/**
 * @typedef {"idle" | "uploading" | "waiting" | "paused" | "complete" | "failed" | "aborted"} State
 * @typedef {{location: string, size: number, sha256: string}} Result
 * @typedef {{offset: number, length: number}} Progress
 */

/** An answer that is an error, with the detail of its problem details. */
export class Refusal extends Error {
  static async of(/** @type {Response} */ answer) {
    const problem = await answer.json().catch(() => ({})); // the answer to HEAD has no body
    return new Refusal(problem.detail ?? `The service answers ${answer.status}.`, answer);
  }

  constructor(/** @type {string} */ detail, /** @type {Response} */ answer) {
    super(detail);
    this.status = answer.status;
    this.pause = (Number(answer.headers.get("Retry-After")) || 0) * 1_000;
  }

  get isFinal() {
    return !TRY_AGAIN.includes(this.status) && (this.status < 500 || this.status === 507);
  }
}

/**
 * Progress is what the service keeps, told by `{upload}/events` while a chunk is under way, and by the answer to
 * each. What the browser has sent (`xhr.upload.onprogress`) may be in a buffer, and is not counted.
 */
export class ResumableUpload {
  state = /** @type {State} */ ("idle"); // to be read, as are the next two
  url = "";
  offset = 0;
  #control = new AbortController(); // of one attempt
  #attempts = 0;
  #beginnings = 0;
  #wake = () => {};

  /**
   * @param {File} file
   * @param {object} options
   * @param {string} options.endpoint Such as `/files/uploads`.
   * @param {number} [options.chunkSize] Bytes of one request. What arrived of a chunk is kept when the line is lost.
   * @param {() => HeadersInit | Promise<HeadersInit>} [options.headers] Asked before each: a token expires.
   * @param {(progress: Progress) => void} [options.onprogress]
   * @param {(state: State, news: {pause?: number, error?: Error}) => void} [options.onstate]
   */
  constructor(file, { endpoint, chunkSize = CHUNK_SIZE, headers = () => ({}), onprogress, onstate }) {
    if (!(chunkSize >= 1)) throw new RangeError("A chunk has at least one byte.");
    this.file = file;
    this.endpoint = new URL(endpoint, location.href).href;
    this.chunkSize = chunkSize;
    this.headers = headers;
    this.onprogress = onprogress;
    this.onstate = onstate;
    // A file that was changed has another time. That of another folder may be the same by accident: compare digests.
    this.key = `upload of ${file.name} ${file.size} ${file.lastModified} to ${this.endpoint}`;
  }

  /**
   * Begins, or goes on with what an earlier page has begun; after `failed` it may be called again.
   * Rejects with the `Refusal` that no further attempt would change, and after `abort()`.
   * @returns {Promise<Result>}
   */
  async start() {
    if (!["idle", "failed"].includes(this.state)) throw new Error(`The upload is ${this.state}.`);
    this.url ||= inBrowser((storage) => storage.getItem(this.key)) ?? "";
    this.#attempts = this.#beginnings = 0;
    this.#become("uploading");
    for (;;) {
      this.#control = new AbortController();
      try {
        const result = await this.#attempt(this.#control.signal).finally(() => this.#control.abort());
        inBrowser((storage) => storage.removeItem(this.key));
        this.#become("complete");
        return result;
      } catch (error) {
        const wasPaused = error instanceof DOMException && error.name === "AbortError"; // and may be resumed by now
        if (this.state === "uploading" && !wasPaused) await this.#recover(error);
        while (this.state === "paused") await this.#sleep();
        if (this.state === "aborted") throw error;
        this.#become("uploading");
      }
    }
  }

  /** Ends the request that is under way. What arrived of it is kept. */
  pause() {
    if (this.state !== "uploading" && this.state !== "waiting") return;
    this.#become("paused");
    this.#control.abort();
    this.#wake();
  }

  /** Goes on after `pause()`, and at once if it waits. */
  resume() {
    if (this.state !== "paused" && this.state !== "waiting") return;
    this.#attempts = 0;
    this.#become("uploading");
    this.#wake();
  }

  /** Gives up for good, and tells the service to delete what it has. If that fails, it will expire there. */
  async abort() {
    if (this.state === "complete" || this.state === "aborted") return;
    this.#become("aborted");
    this.#control.abort();
    this.#wake();
    inBrowser((storage) => storage.removeItem(this.key));
    // The request that was just ended may still hold the upload for a moment.
    for (let attempt = 0; this.url && attempt < DELETIONS; attempt++) {
      try {
        return void (await this.#request("DELETE", this.url, AbortSignal.timeout(PATIENCE)));
      } catch (error) {
        if (error instanceof Refusal && error.isFinal) return;
        await this.#sleep(FIRST_PAUSE);
      }
    }
  }

  /** Up to the end, or to the first thing that goes wrong. */
  async #attempt(/** @type {AbortSignal} */ signal) {
    if (!this.url) await this.#create(signal);
    let offset = this.#kept(await this.#request("HEAD", this.url, signal));
    let following = /** @type {Promise<unknown> | undefined} */ (undefined);
    while (offset < this.file.size) {
      // A stream that has ended, or could not begin, is not worth an error: each chunk has an answer, too.
      following ??= this.#follow(signal).catch(() => {}).finally(() => (following = undefined));
      const chunk = this.file.slice(offset, offset + this.chunkSize);
      const headers = { "Content-Type": "application/offset+octet-stream", "Upload-Offset": `${offset}` };
      offset = this.#kept(await this.#request("PATCH", this.url, signal, headers, chunk));
      this.#attempts = 0;
    }
    const result = await this.#follow(AbortSignal.any([signal, AbortSignal.timeout(PATIENCE)]));
    if (!result) throw new Error("The service does not say that the file is complete.");
    return result;
  }

  async #create(/** @type {AbortSignal} */ signal) {
    const name = btoa(String.fromCharCode(...new TextEncoder().encode(this.file.name)));
    const headers = { "Upload-Length": `${this.file.size}`, "Upload-Metadata": `filename ${name}` };
    const answer = await this.#request("POST", this.endpoint, signal, headers);
    this.url = new URL(answer.headers.get("Location") ?? "", this.endpoint).href;
    inBrowser((storage) => storage.setItem(this.key, this.url));
  }

  /** Tells the progress until the stream ends. Not by `EventSource`: that cannot send an access token. */
  async #follow(/** @type {AbortSignal} */ signal) {
    const { body } = await this.#request("GET", `${this.url}/events`, signal);
    const reader = /** @type {ReadableStream} */ (body).pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (let read; !(read = await reader.read()).done; ) {
      const events = (text + read.value).split("\n\n");
      text = events.pop() ?? "";
      for (const event of events) {
        const data = JSON.parse(event.match(/^data: (.*)$/m)?.[1] ?? "{}");
        if (/^event: complete$/m.test(event)) return /** @type {Result} */ (data);
        // Looked up a moment ago, it may be behind the answer to a chunk.
        if (data.offset > this.offset && !signal.aborted) this.#tell(data.offset);
      }
    }
  }

  async #request(
    /** @type {string} */ method,
    /** @type {string} */ url,
    /** @type {AbortSignal} */ signal,
    /** @type {Record<string, string>} */ headers = {},
    /** @type {Blob | undefined} */ body = undefined,
  ) {
    const all = new Headers(await this.headers());
    for (const [name, value] of Object.entries({ "Tus-Resumable": "1.0.0", ...headers })) all.set(name, value);
    const seconds = (body?.size ?? 0) / SLOWEST;
    // A stream of events has no time. A line can die without a word, as in a change of networks.
    const signals = method === "GET" ? [signal] : [signal, AbortSignal.timeout(PATIENCE + seconds * 1_000)];
    const answer = await fetch(url, { method, headers: all, body, signal: AbortSignal.any(signals) });
    if (!answer.ok) throw await Refusal.of(answer);
    return answer;
  }

  /** Waits, where another attempt may help; else raises the error. */
  async #recover(/** @type {unknown} */ error) {
    const refusal = error instanceof Refusal ? error : undefined;
    if (refusal && this.url && [404, 410].includes(refusal.status) && ++this.#beginnings < MAX_BEGINNINGS) {
      inBrowser((storage) => storage.removeItem(this.key));
      this.url = "";
    } else if (refusal ? refusal.isFinal : !(await this.file.slice(0, 1).arrayBuffer().catch(() => null))) {
      // A file that was changed or moved looks like a lost line to `fetch`.
      const reason = refusal ?? new Error("The file cannot be read any more. Has it changed?");
      this.#become("failed", { error: reason });
      throw reason;
    }
    if (this.state !== "uploading") return; // paused or aborted while the file was tried
    // Drawn from the whole span ("full jitter"), or all who were cut off together would come back together.
    const drawn = Math.random() * Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** this.#attempts++);
    const pause = Math.min(refusal?.pause ?? 0, LONGEST_RETRY_AFTER) + drawn;
    this.#become("waiting", { pause, error: /** @type {Error} */ (error) });
    await this.#sleep(pause);
  }

  /** Until it is woken, or the network is back. */
  #sleep(/** @type {number | undefined} */ pause = undefined) {
    const over = new AbortController();
    const woken = new Promise((/** @type {(_: unknown) => void} */ resolve) => {
      this.#wake = () => resolve(undefined);
      addEventListener("online", resolve, { signal: over.signal });
      if (pause !== undefined) setTimeout(resolve, pause);
    });
    return woken.finally(() => over.abort());
  }

  /** What the service says that it has. */
  #kept(/** @type {Response} */ answer) {
    const offset = Number(answer.headers.get("Upload-Offset") ?? NaN);
    if (!(offset >= 0 && offset <= this.file.size)) throw new Error("The service does not say how much it has.");
    this.#tell(offset);
    return offset;
  }

  #tell(/** @type {number} */ offset) {
    this.offset = offset;
    this.onprogress?.({ offset, length: this.file.size });
  }

  #become(/** @type {State} */ state, news = {}) {
    this.state = state;
    this.onstate?.(state, news);
  }
}

/** Where the browser forbids it, or its storage is full, a reload begins anew. */
function inBrowser(/** @type {(storage: Storage) => string | null | void} */ act) {
  try {
    return act(localStorage);
  } catch {}
}
