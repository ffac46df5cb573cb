// The reader's token or API key. It is kept in this tab only: never in a URL, nor in localStorage.

import { setText } from "./dom.js";
import { clock } from "./times.js";

const WARNING_MS = 60_000; // before the end of a token
const ENDING_MS = 2000; // the client asks up to a second before it
const MAX_TIMER_MS = 2 ** 31 - 1;
const KINDS = { token: "Token", key: "API key" };

/**
 * What this tab keeps for the server with this root URL: `{by: "token" or "key", text, endsAt}`, or null.
 * `hasEnded`: it was a token whose time is over. The server need not be asked about that one.
 */
export class Keeper {
  constructor(root) {
    this.name = `pushserver login ${root}`;
    this.value = null;
    try {
      this.value = JSON.parse(sessionStorage.getItem(this.name));
    } catch {
      // This page may have no storage; it is kept until the page is closed.
    }
    this.hasEnded = this.value?.endsAt <= Date.now();
    if (this.hasEnded) this.keep(null);
  }

  keep(value) {
    this.value = value;
    try {
      if (value) sessionStorage.setItem(this.name, JSON.stringify(value));
      else sessionStorage.removeItem(this.name);
    } catch {
      // as above
    }
  }
}

/** The headers of a request with this token or key. */
export function credentialHeaders(value) {
  if (!value) return {};
  // The server reads UTF-8; fetch() sends each character as a byte, and refuses others.
  const bytes = Array.from(new TextEncoder().encode(value.text), (byte) => String.fromCharCode(byte));
  return { Authorization: `Bearer ${bytes.join("")}` };
}

/** The JSON of the answer, `{ok, status, content}`; `content.error` has the reason of a refusal. */
export async function askServer(url, value, options = {}) {
  try {
    const { headers, ...rest } = options;
    const response = await fetch(url, {
      cache: "no-store",
      headers: { Accept: "application/json", ...credentialHeaders(value), ...headers },
      ...rest,
    });
    return { ok: response.ok, status: response.status, content: await response.json() };
  } catch {
    return { ok: false, status: 0, content: { error: { message: "The server does not answer." } } };
  }
}

/**
 * The field. `ask(value)` asks the server with a token or key, and resolves to the result of
 * `askServer()`. `onChange(continues)` is called after a login and a logout, with whether `another()`
 * gives the connection its new token; `onWarning(text)` before a token ends.
 */
export class Login {
  constructor(byId, keeper, { ask, onChange, onWarning }) {
    this.keeper = keeper;
    this.ask = ask;
    this.onChange = onChange;
    this.onWarning = onWarning ?? (() => {});
    this.facts = null; // the server's newest answer
    this.endsAt = null; // the end of the token
    this.waiting = []; // those who need another token
    this.elements = {
      box: byId("login"),
      summary: byId("login-summary"),
      form: byId("login-form"),
      label: byId("login-label"),
      input: byId("login-text"),
      problem: byId("login-problem"),
      logOut: byId("log-out"),
    };
    if (keeper.hasEnded) setText(this.elements.problem, "The token has expired.");
    this.elements.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.elements.input.addEventListener("input", () => setText(this.elements.problem, ""));
    this.elements.logOut.addEventListener("click", () => this.logOut());
  }

  get value() {
    return this.keeper.value;
  }

  /** Notes the answer of the server about the reader's permissions. */
  learn(facts) {
    this.facts = facts;
    clearTimeout(this.timer);
    this.ended = false;
    this.endsAt = null;
    if (!this.value || !facts.seconds) return;
    this.#planEnd(facts.seconds * 1000);
    this.value.endsAt = this.endsAt;
    this.keeper.keep(this.value);
  }

  /** Shows the field for these kinds of credentials; `open` if one is needed. */
  show(accepts, open) {
    const { box, form, label, logOut, summary } = this.elements;
    box.hidden = accepts.length === 0 && !this.value;
    form.hidden = accepts.length === 0;
    logOut.hidden = !this.value;
    setText(label, accepts.map((kind) => KINDS[kind]).join(" or "));
    setText(summary, this.value ? whoText(this.facts, this.endsAt, Date.now()) : "Log in");
    if (open || this.elements.problem.textContent) box.open = true;
  }

  /** Opens the field and puts the keyboard into it. */
  focus() {
    this.elements.box.open = true;
    this.elements.input.focus();
  }

  /** A token that is valid for some time, as soon as the reader gives it. */
  another() {
    const left = this.endsAt === null ? 0 : this.endsAt - Date.now();
    // The client asks again if it has lost its connection, and did not use the last answer.
    if (left > ENDING_MS) return Promise.resolve(this.value.text);
    this.#end();
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  /** Forgets the token or key; `problem` says why the server does not take it any more. */
  forget(problem = "") {
    this.keeper.keep(null);
    this.facts = null;
    this.endsAt = null;
    this.waiting = [];
    clearTimeout(this.timer);
    setText(this.elements.problem, problem);
  }

  logOut() {
    this.forget();
    this.onChange(false);
    this.elements.summary.focus();
  }

  async #submit() {
    const { form, input, problem } = this.elements;
    const text = input.value.trim();
    if (!text || form.ariaBusy === "true") return;
    form.ariaBusy = "true";
    setText(problem, "");
    const { ok, content } = await this.ask({ text });
    form.ariaBusy = "false";
    const denied = ok ? deniedText(content) : content.error.message;
    if (denied) {
      setText(problem, denied);
      input.select();
      return;
    }
    input.value = "";
    this.#accept({ by: content.by ?? "key", text }, content);
  }

  #accept(value, facts) {
    // The connection continues with another token of the same user.
    const continues =
      value.by === "token" && this.value?.by === "token" && facts.user === this.facts?.user;
    this.keeper.keep(value);
    this.learn(facts);
    for (const resolve of this.waiting.splice(0)) if (continues) resolve(value.text);
    this.elements.box.open = false;
    this.elements.summary.focus();
    this.onChange(continues);
  }

  #planEnd(milliseconds) {
    const wait = Math.min(Math.max(0, milliseconds - WARNING_MS), MAX_TIMER_MS);
    this.endsAt = Date.now() + milliseconds;
    this.timer = setTimeout(() => {
      const left = this.endsAt - Date.now();
      if (left > WARNING_MS) this.#planEnd(left);
      else if (left > 0) this.onWarning(`The token ends in ${Math.ceil(left / 1000)} s.`);
    }, wait);
  }

  #end() {
    if (this.ended) return;
    this.ended = true;
    this.onWarning("The token has ended.");
  }
}

/** The reason why the reader may not read the channel with this token or key; empty if it may. */
function deniedText({ subscribe }) {
  return subscribe && !subscribe.allowed ? subscribe.reason : "";
}

/** "Logged in as ann until 14:05:10"; the end in milliseconds, or null. */
export function whoText(facts, endsAt, now) {
  if (!facts?.by) return "Logged in";
  const { by, user, key } = facts;
  const who = by === "key" ? `with the key${key && ` ${key}`}` : user ? `as ${user}` : "with a token";
  return endsAt ? `Logged in ${who} until ${clock(endsAt, now)}` : `Logged in ${who}`;
}
