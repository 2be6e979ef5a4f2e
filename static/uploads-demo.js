// The page `GET /files/uploads`: one file at a time.

import { Refusal, ResumableUpload } from "./resumable-upload.js";

const MAX_DIGESTED = 256 * 2 ** 20; // the browser digests a file as a whole, in memory
const RATE_SPAN = 5_000; // milliseconds over which the rate is an average
const page = document.getElementById("uploads");
const find = (selector) => page.querySelector(selector);
const chunkSize = Math.max(0, parseInt(new URLSearchParams(location.search).get("chunk"))) || undefined;
const input = find("input");
const drop = find(".drop");

let upload;

function bytes(number) {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]])
    if (number >= size) return `${(number / size).toFixed(number < 10 * size ? 1 : 0)} ${unit}`;
  return `${number} bytes`;
}

/** Bytes a second, from what was told in the last seconds. A piece that was kept before does not count. */
class Rate {
  #told = [];

  add(offset) {
    const now = performance.now();
    if (offset < (this.#told.at(-1)?.offset ?? 0)) this.#told = [];
    this.#told.push({ now, offset });
    while (this.#told[0].now < now - RATE_SPAN && this.#told.length > 2) this.#told.shift();
  }

  clear() {
    this.#told = [];
  }

  toString() {
    const [first, last] = [this.#told[0], this.#told.at(-1)];
    return last?.now - first?.now > 100 ? `${bytes(Math.round((last.offset - first.offset) / (last.now - first.now) * 1_000))}/s` : "";
  }
}

const rate = new Rate();

function showProgress({ offset, length }) {
  rate.add(offset);
  const share = length ? offset / length : 1;
  find("progress").value = share;
  find(".percent").textContent = `${Math.floor(share * 100)} %`;
  find(".amount").textContent = `${bytes(offset)} of ${bytes(length)}`;
  find(".rate").textContent = String(rate);
}

const STATES = { uploading: "Uploading", complete: "Complete", failed: "It stopped", aborted: "Cancelled" };

function showState(state, { pause, error }) {
  rate.clear();
  find(".rate").textContent = "";
  const shown = find(".state");
  shown.dataset.state = state;
  shown.textContent =
    state === "paused" ? `Paused at ${find(".percent").textContent}`
    : state === "waiting" ? `Waiting ${(pause / 1_000).toFixed(1)} s for the next attempt`
    : STATES[state];
  find(".problem").textContent =
    state === "failed" || error instanceof Refusal ? error.message
    : state === "waiting" ? "The service cannot be reached."
    : "";
  const isOver = ["complete", "failed", "aborted"].includes(state);
  show(".pause", state === "uploading");
  show(".resume", ["paused", "waiting", "failed"].includes(state));
  show(".cancel", state !== "complete" && state !== "aborted");
  input.disabled = !isOver;
}

/** A button that goes hands the focus to the one that comes in its place. */
function show(selector, isShown) {
  const button = find(selector);
  const hadFocus = button === document.activeElement;
  button.hidden = !isShown;
  if (hadFocus && !isShown) setTimeout(() => find("button:not([hidden])")?.focus());
}

async function digestOf(file) {
  if (file.size > MAX_DIGESTED) return `not computed: it is larger than ${bytes(MAX_DIGESTED)}`;
  if (!crypto.subtle) return "not computed: browsers do that over https only";
  const digest = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function run(file) {
  try {
    const { location, sha256 } = await upload.start();
    const digest = await digestOf(file);
    find(".theirs").textContent = sha256;
    find(".ours").textContent = digest;
    find(".verdict").textContent = digest === sha256 ? "They are equal." : digest.length === 64 ? "They differ." : "";
    find(".verdict").classList.toggle("differs", digest !== sha256);
    find(".download").href = location;
    find(".result").hidden = false;
  } catch {
    // Shown already, by the state.
  }
}

function begin(file) {
  find(".name").textContent = file.name; // a text, whatever it looks like
  find(".under-way").hidden = false;
  find(".result").hidden = true;
  rate.clear();
  showProgress({ offset: 0, length: file.size });
  const endpoint = `${page.dataset.root}/files/uploads`;
  upload = new ResumableUpload(file, { endpoint, chunkSize, onprogress: showProgress, onstate: showState });
  run(file);
}

input.addEventListener("change", () => {
  const [file] = input.files;
  input.value = ""; // or the same file could not be chosen again
  if (file) begin(file);
});

for (const type of ["dragenter", "dragover", "dragleave", "drop"])
  addEventListener(type, (event) => {
    event.preventDefault(); // a file that is dropped beside would be opened in the place of the page
    drop.classList.toggle("over", (type === "dragenter" || type === "dragover") && drop.contains(event.target));
    const [file] = type === "drop" && drop.contains(event.target) && !input.disabled ? event.dataTransfer.files : [];
    if (file) begin(file);
  });

find(".pause").addEventListener("click", () => upload.pause());
find(".cancel").addEventListener("click", () => upload.abort());
find(".resume").addEventListener("click", () => (upload.state === "failed" ? run(upload.file) : upload.resume()));
