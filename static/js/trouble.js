// Failures of sources, handlers and the template behind this channel, polled: one line, and the details on request.
// Only pages for operators, who may publish, have the line.

import { setText } from "./dom.js";
import { ago, fullTime } from "./times.js";

const ASK_MS = 5000;
const SOURCE_MS = 2 * ASK_MS; // longer than a poll, so that a source that fails now and then does not flicker
const HANDLER_MS = 60_000;
const TEMPLATE_MS = Infinity; // the server forgets the failure when it reads the template again
const TICK_MS = 1000;

/**
 * The failures, newest first, from the server's answer: `{subject, error, at, lastsMs, state, retryAt}`,
 * instants in milliseconds of the local clock; `now` is the arrival of the answer.
 */
export function troubles({ time, sources, handlers, fragments = [] }, now) {
  const here = (seconds) => now + (seconds - time) * 1000;
  const failing = sources
    .filter((source) => source.error_time !== null)
    .map((source) => ({
      subject: `Source ${source.name}`,
      error: source.last_failure,
      at: here(source.error_time),
      lastsMs: source.last_error ? Infinity : SOURCE_MS,
      state: source.last_error ? source.state : "works again",
      retryAt: source.next_attempt === null ? null : here(source.next_attempt),
    }));
  const failed = handlers.map(({ name, event, error, time: seconds }) => ({
    subject: name === event ? `Handler ${name}` : `Handler ${name} of ${event}`,
    error,
    at: here(seconds),
    lastsMs: HANDLER_MS,
    state: "",
    retryAt: null,
  }));
  const without = fragments.map(({ name, channel, error, time: seconds }) => ({
    subject: channel ? `Fragment of ${channel} (${name})` : `Template ${name}`,
    error,
    at: here(seconds),
    lastsMs: TEMPLATE_MS,
    state: "",
    retryAt: null,
  }));
  return [...failing, ...failed, ...without].sort((one, other) => other.at - one.at);
}

/** The time of the failure and the next attempt: "3 s ago, tried again in 4 s". */
export function whenText({ at, state, retryAt }, now) {
  const when = ago(Math.max(0, now - at));
  if (retryAt === null) return [when, STATE_TEXTS[state] ?? state].filter(Boolean).join(", ");
  const seconds = Math.ceil((retryAt - now) / 1000);
  return `${when}, tried again ${seconds > 0 ? `in ${seconds} s` : "now"}`;
}

const STATE_TEXTS = {
  running: "still running",
  waiting: "waits for somebody to watch",
  ended: "has ended",
  stopped: "stopped with the server",
};

/** Polls, and shows the newest failure; `openWhole(title, aside, text)` shows all of them. */
export class Trouble {
  constructor(byId, url, openWhole) {
    this.elements = {
      line: byId("trouble"),
      text: byId("trouble-text"),
      time: byId("trouble-time"),
      button: byId("trouble-more"),
      spoken: byId("trouble-spoken"),
      state: byId("state"),
    };
    this.url = url;
    this.failures = [];
    this.polling = false;
    this.elements.button?.addEventListener("click", () => openWhole(...this.#whole()));
  }

  /** Polls as long as the server answers. */
  begin() {
    if (this.polling || !this.elements.line) return;
    this.polling = true;
    this.#ask();
  }

  /** The page is visible again. */
  seen() {
    if (this.unseen) this.#ask();
  }

  async #ask() {
    this.unseen = document.visibilityState !== "visible";
    if (this.unseen) return;
    const status = await answer(this.url);
    this.polling = status !== null;
    if (this.polling) setTimeout(() => this.#ask(), ASK_MS);
    this.failures = status === null ? [] : troubles(status, Date.now());
    this.#render();
  }

  #render() {
    clearTimeout(this.timer);
    const { line, text, time, button, spoken } = this.elements;
    const now = Date.now();
    const current = this.#current(now);
    const [newest] = current;
    // A button that disappears must not lose the keyboard focus.
    if (!newest && document.activeElement === button) this.elements.state.focus();
    line.classList.toggle("shown", Boolean(newest));
    button.hidden = !newest;
    setText(text, newest ? `${newest.subject}: ${newest.error}` : "");
    const more = current.length > 1 ? ` (and ${current.length - 1} more)` : "";
    setText(time, newest ? whenText(newest, now) + more : "");
    // Without the error texts, which may differ each time.
    const names = current.map(({ subject }) => subject).sort();
    setText(spoken, names.length > 0 ? `Failing: ${names.join(", ")}` : "");
    if (newest) this.timer = setTimeout(() => this.#render(), TICK_MS);
  }

  #current(now) {
    return this.failures.filter(({ at, lastsMs }) => now - at < lastsMs);
  }

  #whole() {
    const now = Date.now();
    const parts = this.#current(now).map(
      (one) => `${one.subject}\n${one.error}\n${fullTime(one.at)}: ${whenText(one, now)}`,
    );
    return ["Failures", "The log of the server has the tracebacks.", parts.join("\n\n")];
  }
}

async function answer(url) {
  try {
    const response = await fetch(url, { headers: { Accept: "application/json" } });
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}
