// The page `GET /rooms`: two clients side by side, each with an account of its own.

import { RoomClient } from "./room-client.js";

const MAX_SHOWN = 200;
const SLOW = 300; // milliseconds; what is sent sooner is not shown as waiting
const ROOT = document.getElementById("rooms").dataset.root;
const STATES = { connecting: "connecting", open: "open", closed: "closed", refused: "refused: enter again" };

function random(bytes) {
  return Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (byte) => (byte % 36).toString(36)).join("");
}

function post(path, options) {
  return fetch(`${ROOT}${path}`, { method: "POST", ...options });
}

/** Raises what the problem details say. */
async function checked(answer) {
  if (!answer.ok) throw new Error((await answer.json()).detail);
  return answer;
}

/** An account and its tokens, which live as long as the page: nothing is kept in the browser. */
class Login {
  static async begin(username, password) {
    const headers = { "Content-Type": "application/json" };
    const body = JSON.stringify({ username, password });
    const made = await post("/security/oauth2/accounts", { headers, body });
    if (made.status !== 409) await checked(made); // 409: it exists, and the password will tell whose it is
    const form = new URLSearchParams({ grant_type: "password", username, password });
    const answer = await checked(await post("/security/oauth2/token", { body: form }));
    return new Login(await answer.json());
  }

  constructor(tokens) {
    this.tokens = tokens;
  }

  async getTicket(signal) {
    const ask = () =>
      post("/rooms/tickets", { signal, headers: { Authorization: `Bearer ${this.tokens.access_token}` } });
    const answer = await ask();
    if (answer.status !== 401) return answer;
    // One at a time and without the signal: a second use of a refresh token ends the login, and the answer to
    // the first one brings the next token.
    this.refreshing ??= this.refresh().finally(() => (this.refreshing = undefined));
    const refused = await this.refreshing;
    return refused ?? ask();
  }

  /** Takes the next tokens; or the answer, when there are none. */
  async refresh() {
    const { refresh_token } = this.tokens;
    const body = new URLSearchParams({ grant_type: "refresh_token", refresh_token });
    const answer = await post("/security/oauth2/refresh", { body });
    if (!answer.ok) return answer;
    this.tokens = await answer.json();
  }
}

function show(section, room) {
  const find = (selector) => section.querySelector(selector);
  const [enter, say] = [find(".enter"), find(".say")];
  const [state, people, messages, unsaid, problem] = [".state", ".here span", ".messages", ".unsaid", ".problem"].map(find);
  let client;

  enter.username.value = `${section.dataset.name}-${random(5)}`;
  enter.password.value = random(20);
  enter.room.value = room;

  /** What others wrote is text, whatever it looks like: `append` makes no elements of it. */
  function item(list, className, ...parts) {
    const element = document.createElement("li");
    element.className = className;
    element.append(...parts);
    list.append(element);
    while (list.children.length > MAX_SHOWN) list.firstChild.remove();
    list.scrollTop = list.scrollHeight;
    return element;
  }

  function name(text) {
    const element = document.createElement("b");
    element.append(text);
    return element;
  }

  function listen() {
    client.addEventListener("state", ({ detail }) => {
      state.dataset.state = detail.state;
      state.textContent = STATES[detail.state] ?? `waiting ${(detail.pause / 1_000).toFixed(1)} s`;
      const isInside = detail.state !== "closed" && detail.state !== "refused";
      enter.hidden = isInside;
      find(".inside").hidden = !isInside;
    });
    client.addEventListener("here", ({ detail }) => {
      const names = Array.from(detail.values(), ([first, ...others]) =>
        others.length ? `${first.name} (${others.length + 1} connections)` : first.name);
      people.textContent = names.sort().join(", ");
    });
    client.addEventListener("message", ({ detail }) => item(messages, "", name(detail.sender.name), ` ${detail.text}`));
    client.addEventListener("gap", () => item(messages, "notice", "Messages may be missing here: the service does not remember them."));
    client.addEventListener("service", ({ detail }) =>
      item(messages, "notice", detail.state === "ok" ? "The service is well again." : "The service is degraded."));
  }

  enter.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.textContent = "";
    enter.querySelector("button").disabled = true;
    try {
      const login = await Login.begin(enter.username.value, enter.password.value);
      messages.replaceChildren();
      client = new RoomClient(`${ROOT}/rooms/${enter.room.value}`, (signal) => login.getTicket(signal));
      listen();
      client.connect();
      say.text.focus();
    } catch (error) {
      problem.textContent = error.message;
    }
    enter.querySelector("button").disabled = false;
  });

  say.addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = say.text.value;
    let waiting;
    const slow = setTimeout(() => (waiting = item(unsaid, "", text)), SLOW);
    say.reset();
    try {
      await client.say(text);
    } catch (error) {
      problem.textContent = error.message;
    }
    clearTimeout(slow);
    waiting?.remove();
  });

  find(".cut").addEventListener("click", () => client.reconnect());
  find(".leave").addEventListener("click", () => {
    client.close();
    enter.querySelector("button").focus();
  });
}

const room = `room-${random(5)}`;
for (const section of document.querySelectorAll(".client")) show(section, room);
