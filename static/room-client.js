// The client of `WS /rooms/{room}` for browsers: an ES module as it is, without a build or a dependency.
// It comes back by itself, misses nothing that the service still keeps, and posts nothing twice.

const MAX_TEXT_LENGTH = 4_000;
const MAX_UNSAID = 100;
// All times are milliseconds.
const FIRST_PAUSE = 1_000;
const LONGEST_PAUSE = 30_000;
const LONGEST_RETRY_AFTER = 300_000;
const PATIENCE = 10_000;
const PING_EVERY = 25_000;
const HELD = 10_000;

/**
 * @typedef {"connecting" | "open" | "waiting" | "closed" | "refused"} State
 * @typedef {{connection: string, user: string, name: string}} Member One connection.
 * @typedef {{ref: string, text: string, resolve: (id: string) => void, reject: (error: Error) => void}} Unsaid
 */

/** Whether a message comes after another. As texts are compared, "9-0" would come after "10-0". */
export function isAfter(/** @type {string} */ id, /** @type {string} */ other) {
  const [time, number] = id.split("-").map(Number);
  const [otherTime, otherNumber] = other.split("-").map(Number);
  return time > otherTime || (time === otherTime && number > otherNumber);
}

/** Drawn from the whole span ("full jitter"), or all who were cut off together would come back together. */
function pauseBefore(/** @type {number} */ attempt) {
  return Math.random() * Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** attempt);
}

/**
 * Its events have their news as `detail`: `state` (`{state, pause}`), `here`, and what the room sends: `message`,
 * `joined`, `left`, `gap` (load anew what messages have changed) and `service`.
 */
export class RoomClient extends EventTarget {
  state = /** @type {State} */ ("closed"); // to be read
  #phase = new AbortController(); // aborted by the next one: then its timers and its socket are heard no more
  #socket = /** @type {WebSocket | undefined} */ (undefined);
  #attempts = 0;
  #refusals = 0;
  #frames = 0;
  #lastId = "";
  #unsaid = /** @type {Unsaid[]} */ ([]); // the first may be under way, and the others wait for it
  #members = /** @type {Map<string, Member>} */ (new Map()); // as many as the service lets in

  /**
   * @param {string} url Of the room, such as `/rooms/kitchen`.
   * @param {(signal: AbortSignal) => Promise<Response>} getTicket Posts to `/rooms/tickets`: before each
   *   connection, for a ticket is good for one. A 4xx other than 408 and 429 ends in the state `refused`.
   */
  constructor(url, getTicket) {
    super();
    this.url = new URL(url, location.href);
    this.url.protocol = this.url.protocol.replace("http", "ws");
    this.getTicket = getTicket;
  }

  /** Who is in the room: by user, for someone with two tabs is two connections and one person. */
  get here() {
    return Map.groupBy(this.#members.values(), ({ user }) => user);
  }

  /** Connects, and again whenever the line is lost, until `close()`. After `refused` it begins anew. */
  connect() {
    if (this.state !== "closed" && this.state !== "refused") return;
    this.#attempts = 0;
    this.#open();
  }

  /** The id of the message, as soon as the service keeps it. What is said meanwhile waits, in order. */
  async say(/** @type {string} */ text) {
    const length = [...text].length; // `text.length` counts most emoji as two
    if (length < 1 || length > MAX_TEXT_LENGTH) throw new RangeError(`1 to ${MAX_TEXT_LENGTH} characters, please.`);
    if (this.state === "closed") throw new Error("The room is closed.");
    if (this.#unsaid.length >= MAX_UNSAID) throw new Error("Too many messages wait to be sent.");
    const ref = crypto.getRandomValues(new Uint32Array(4)).join("-"); // `randomUUID` is missing without https
    return new Promise((/** @type {(id: string) => void} */ resolve, reject) => {
      this.#unsaid.push({ ref, text, resolve, reject });
      if (this.#unsaid.length === 1) this.#sendFirst();
    });
  }

  /** Leaves, and gives up what is not said yet. */
  close() {
    this.#begin("closed");
    for (const { reject } of this.#unsaid.splice(0)) reject(new Error("The room is closed."));
  }

  /** Gives up the line, and comes back as from one that was lost. */
  reconnect() {
    if (this.state === "connecting" || this.state === "open") this.#wait(pauseBefore(this.#attempts++));
  }

  async #open() {
    const signal = this.#begin("connecting");
    this.#later(PATIENCE, signal, () => this.state === "connecting" && this.reconnect());
    try {
      const answer = await this.getTicket(signal);
      const { ticket } = answer.ok ? await answer.json() : {};
      if (signal.aborted) return;
      if (ticket) this.#listen(ticket, signal);
      else if (answer.status < 500 && ![408, 429].includes(answer.status)) this.#begin("refused");
      else {
        const asked = (Number(answer.headers.get("Retry-After")) || 0) * 1_000;
        this.#wait(Math.min(asked, LONGEST_RETRY_AFTER) + pauseBefore(this.#attempts++));
      }
    } catch {
      if (!signal.aborted) this.reconnect(); // no network, most often
    }
  }

  #listen(/** @type {string} */ ticket, /** @type {AbortSignal} */ signal) {
    const url = new URL(this.url);
    url.searchParams.set("ticket", ticket);
    if (this.#lastId) url.searchParams.set("after", this.#lastId);
    this.#socket = new WebSocket(url);
    this.#socket.addEventListener("message", ({ data }) => this.#hear(JSON.parse(data), signal), { signal });
    this.#socket.addEventListener("close", ({ code }) => {
      if (code === 1009) this.#unsaid.shift()?.reject(new Error("The message is too large.")); // and stays so
      // Too much was said, or read too slowly: to be back at once would be more of the same.
      if (code === 1008 || code === 1013) this.#attempts = Math.max(this.#attempts, 3);
      this.reconnect();
    }, { signal });
  }

  #hear(/** @type {any} */ message, /** @type {AbortSignal} */ signal) {
    this.#frames++;
    switch (message.type) {
      case "welcome": {
        this.#lastId ||= message.last_id; // who comes back is still to be sent what was missed
        this.#members = new Map([...message.here, message.you].map((member) => [member.connection, member]));
        // Not at once, or a service that takes everybody in and fails would be asked without a pause.
        this.#later(HELD, signal, () => (this.#attempts = 0));
        // However much the others say: the service ends a line on which this side is silent.
        const beat = setInterval(() => this.#ping(signal), PING_EVERY);
        signal.addEventListener("abort", () => clearInterval(beat));
        this.#become("open");
        this.#tell("here", this.here);
        return this.#sendFirst();
      }
      case "message":
        if (!isAfter(message.id, this.#lastId)) return;
        this.#lastId = message.id;
        return this.#tell("message", message);
      case "accepted":
        if (message.ref !== this.#unsaid[0]?.ref) return;
        this.#refusals = 0;
        this.#unsaid.shift()?.resolve(message.id);
        return this.#sendFirst();
      case "invalid": // the first, for no other is under way
        this.#unsaid.shift()?.reject(new Error("The service does not understand the message."));
        return this.#sendFirst();
      case "refused":
        return this.#later(pauseBefore(Math.min(this.#refusals++, 4)), signal, () => this.#sendFirst());
      case "joined":
      case "left":
        this.#members.delete(message.member.connection);
        if (message.type === "joined") this.#members.set(message.member.connection, message.member);
        this.#tell(message.type, message);
        return this.#tell("here", this.here);
      case "gap":
      case "service":
        return this.#tell(message.type, message);
    }
  }

  /**
   * One at a time, and the same again until it is accepted: so the order is kept, whatever is refused. The `ref`
   * stays, so that one whose answer was lost with the line is not posted twice.
   */
  #sendFirst() {
    const [first] = this.#unsaid;
    if (!first || this.state !== "open") return;
    this.#socket?.send(JSON.stringify({ type: "say", ref: first.ref, text: first.text }));
  }

  /** A line can die without a word, as in a change of networks. Then nothing comes, and no `pong` either. */
  #ping(/** @type {AbortSignal} */ signal) {
    const before = this.#frames;
    this.#socket?.send('{"type": "ping"}');
    this.#later(PATIENCE, signal, () => this.#frames === before && this.reconnect());
  }

  /** Someone looks at the page, or the network has changed: now is the time to try the line. */
  #look = () => {
    if (document.hidden) return;
    if (this.state === "open") this.#ping(this.#phase.signal);
    else if (this.state === "waiting" && navigator.onLine) this.#wait(Math.random() * FIRST_PAUSE);
  };

  #wait(/** @type {number} */ pause) {
    this.#later(pause, this.#begin("waiting", pause), () => this.#open());
  }

  #begin(/** @type {State} */ state, pause = 0) {
    this.#phase.abort();
    const { signal } = (this.#phase = new AbortController());
    this.#socket?.close(1000); // nobody waits for its end: on a dead line that takes a minute
    this.#socket = undefined;
    for (const event of state === "closed" ? [] : ["online", "offline", "visibilitychange"])
      addEventListener(event, this.#look, { signal });
    this.#become(state, pause);
    return signal;
  }

  #later(/** @type {number} */ pause, /** @type {AbortSignal} */ signal, /** @type {() => void} */ act) {
    setTimeout(() => signal.aborted || act(), pause);
  }

  #become(/** @type {State} */ state, pause = 0) {
    this.state = state;
    this.#tell("state", { state, pause });
  }

  #tell(/** @type {string} */ type, /** @type {unknown} */ detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
