// The state of the connection in one line, with its countdown and its button.

import { setText } from "./dom.js";

const TICK_MS = 250;

const BUTTONS = { retry: "Try now", open: "Connect again" };

/** The text of the line at this instant: "Reconnecting in 4 s: the server is shutting down". */
export function stateText({ state, reason, retryAt }, now) {
  const why = reason ? `: ${reason}` : "";
  if (state === "live") return reason ? `Live, without ${reason}` : "Live";
  if (state === "connecting") return "Connecting…";
  if (state === "closed") return `Closed${why}`;
  const seconds = Math.ceil((retryAt - now) / 1000);
  return retryAt !== null && seconds > 0
    ? `Reconnecting in ${seconds} s${why}`
    : `Reconnecting…${why ? ` (${reason})` : ""}`;
}

/**
 * The states of several channels, `[[channel, state], ...]`, as one: live as soon as one is, with the reason of
 * those that are closed.
 */
export function combinedState(states) {
  const of = (name) => states.find(([, { state }]) => state === name)?.[1];
  const most = of("reconnecting") ?? of("connecting") ?? of("live") ?? of("closed");
  if (most.state !== "live") return most;
  const closed = states.filter(([, { state }]) => state === "closed");
  return { ...most, reason: closed.map(([channel, { reason }]) => `${channel} (${reason})`).join(", ") };
}

/** The notice of missing events. */
export function gapText({ missed, reason }) {
  if (missed === null) return `${reason[0].toUpperCase()}${reason.slice(1)}.`;
  return missed === 1
    ? "One event came and went while this page was away."
    : `${missed.toLocaleString("en")} events came and went while this page was away.`;
}

/** Why a page has no events; `seen` is the number of those that it had before. */
export function emptyText({ several, historySize }, seen) {
  if (historySize === 0) {
    const keep = several ? "These channels keep" : "This channel keeps";
    return `${keep} no history: the page has the events from now on.`;
  }
  return seen > 0
    ? "There are no events since the server began a new history."
    : "Nothing was published here yet.";
}

/** Why none of the events is shown; `fields` are the chosen ones, if no event has any of them. */
export function noneText(fields) {
  if (fields.length === 0) return "None of the events on this page matches.";
  const names = fields.map((name) => `"${name}"`).join(", ");
  return `None of the events on this page has the field${fields.length > 1 ? "s" : ""} ${names}.`;
}

/** Shows a connection's state; `retry` ends the wait, and connects again after a final close. */
export class StateLine {
  constructor(elements, retry) {
    this.elements = elements;
    this.state = { state: "connecting", reason: "", retryAt: null, canRetry: false };
    elements.button.addEventListener("click", retry);
  }

  show(state) {
    this.state = state;
    clearInterval(this.timer);
    if (state.retryAt !== null) this.timer = setInterval(() => this.#render(), TICK_MS);
    this.#render();
  }

  get waiting() {
    return this.state.canRetry && this.state.retryAt > Date.now();
  }

  #render() {
    const { line, text } = this.elements;
    if (line.dataset.state !== this.state.state) line.dataset.state = this.state.state;
    setText(text, stateText(this.state, Date.now()));
    this.#renderButton();
  }

  #renderButton() {
    const { button } = this.elements;
    const action = this.state.state === "closed" ? "open" : this.waiting ? "retry" : "";
    // A button that disappears must not lose the keyboard focus.
    if (action === "" && document.activeElement === button) this.elements.line.focus();
    button.hidden = action === "";
    if (!action || button.dataset.action === action) return;
    button.dataset.action = action;
    button.textContent = BUTTONS[action];
  }
}
