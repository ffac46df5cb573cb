// How a row is opened: by a click, or by the button in it, to which the arrow keys go.

import { element } from "./dom.js";
import { clock, fullTime } from "./times.js";

/** The time of a publication, as the button that opens it. */
export function timeButton({ time, offset, channel }, now) {
  const button = element("button", "row-open");
  button.type = "button";
  button.tabIndex = -1;
  button.ariaHasPopup = "dialog";
  const when = element("time", "row-when", clock(time, now));
  when.dateTime = instant(time);
  const where = [channel, offset === undefined ? "" : `offset ${offset}`].filter(Boolean);
  when.title = [fullTime(time), ...where].join(" · ");
  button.append(when);
  return button;
}

/** The channel, if there are several, and the event's name unless it is the default. */
export function originText({ channel, event }, several) {
  return [several ? channel : "", event === "message" ? "" : event].filter(Boolean).join(" · ");
}

function instant(time) {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? "" : date.toISOString();
}

/**
 * Opens the rows of a Keyed: `open(publication)`. One of them is reached with Tab, the others from there with
 * the arrow keys.
 */
export class Opening {
  constructor(keyed, open) {
    this.keyed = keyed;
    this.open = open;
    this.reached = null; // the button that Tab reaches
    keyed.element.addEventListener("click", (event) => this.#clicked(event));
    keyed.element.addEventListener("keydown", (event) => this.#pressed(event));
    keyed.element.addEventListener("focusin", ({ target }) => {
      if (target.matches(".row-open")) this.#reach(target);
    });
  }

  /** After each change of the rows: Tab goes to the newest one, unless the keyboard is in the list. */
  update() {
    const { element } = this.keyed;
    const isInside = this.reached?.isConnected && element.contains(element.getRootNode().activeElement);
    if (!isInside) this.#reach(this.#button(0));
  }

  #button(index) {
    return this.keyed.rows.at(index)?.item.querySelector(".row-open") ?? null;
  }

  #reach(button) {
    if (button === this.reached) return;
    if (this.reached) this.reached.tabIndex = -1;
    if (button) button.tabIndex = 0;
    this.reached = button;
  }

  #clicked({ target }) {
    if (target.closest("button, a") && !target.closest(".row-open")) return;
    // The end of a selection is no click.
    if (!target.closest(".row-open") && !globalThis.getSelection().isCollapsed) return;
    const row = this.keyed.rows.find(({ item }) => item.contains(target));
    if (row) this.open(row.publication);
  }

  #pressed(event) {
    const { rows } = this.keyed;
    const index = rows.findIndex(({ item }) => item.contains(event.target));
    const next = { ArrowDown: index + 1, ArrowUp: index - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (index < 0 || next === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    if (next >= 0 && next < rows.length) this.#button(next).focus();
  }
}
