// The list of the newest publications.

import { element } from "./dom.js";
import { Keyed } from "./keyed.js";
import { Opening, originText, timeButton } from "./opening.js";
import { alignment, describe, formatNumber } from "./values.js";

const MOST_PLACEHOLDERS = 10;
const ALL = { pick: (data) => data, format: formatNumber, several: false };

/**
 * Shows the newest `size` publications in an `<ol>`, with placeholders for those that are missing.
 * `openWhole(publication)` shows all of one; `pick(data)` returns the part to show, and
 * `format(number, decimals)` the text of a number; `several`: rows name their channels.
 */
export class List {
  constructor(element, size, openWhole, { pick, format, several } = ALL) {
    this.element = element;
    this.size = size;
    this.openWhole = openWhole;
    this.pick = pick;
    this.format = format;
    this.several = several;
    this.keyed = new Keyed(element, (publication) => this.#makeRow(publication));
    this.opening = new Opening(this.keyed, openWhole);
    // Which rows are cut depends on the width.
    this.resizes = new ResizeObserver(() => this.#findCut(this.rows));
    this.resizes.observe(element);
  }

  get rows() {
    return this.keyed.rows;
  }

  /** Shows these publications, newest last. */
  render(publications) {
    const { fresh, gone } = this.keyed.update(publications.slice(-this.size));
    if (fresh.length === 0 && gone === 0 && this.complete) return;
    this.#fill();
    this.#align();
    this.rows.forEach((row, index) => row.item.classList.toggle("newest", index === 0));
    this.#findCut(fresh);
    this.opening.update();
    this.complete = true;
  }

  /**
   * Shows up to `size` publications from now on, which may be others, and this part of their data: all rows
   * are made anew.
   */
  restart(size, pick = this.pick) {
    this.size = size;
    this.pick = pick;
    this.keyed.clear();
    this.complete = false;
  }

  /** Stops measuring. */
  destroy() {
    this.resizes.disconnect();
  }

  // Placeholders keep the height of a list with few rows. The topmost is removed first, so that the
  // others stay in place.
  #fill() {
    const places = Math.max(this.rows.length, Math.min(this.size, MOST_PLACEHOLDERS));
    const missing = places - this.element.children.length;
    for (let index = 0; index < missing; index++) this.element.append(placeholder());
    for (let index = 0; index < -missing; index++)
      this.element.querySelector(".placeholder-row").remove();
  }

  #makeRow(publication) {
    const description = describe(this.pick(publication.data));
    const item = element("li", "row-item");
    item.dataset.offset = String(publication.offset ?? "");
    const value = element("span", "row-value");
    const row = { publication, description, item, value, numbers: [] };
    for (const part of description.parts) value.append(this.#makePart(part, row));
    item.classList.toggle(
      "numeric",
      description.parts.every((part) => part.kind === "number"),
    );
    value.classList.toggle("columns", description.parts.length > 1);
    item.append(rowHead(publication, this.several), value, this.#more(publication));
    return row;
  }

  #makePart(part, row) {
    const box = element("span", "part");
    // The space separates the parts when a reader copies the row.
    if (part.key) box.append(element("span", "part-key", part.key), " ");
    const value = element("span", `part-${part.kind}`, part.kind === "number" ? "" : part.text);
    if (part.kind === "number") row.numbers.push({ part, value });
    box.append(value);
    return box;
  }

  #more(publication) {
    const button = element("button", "row-more", "all");
    button.type = "button";
    button.hidden = true;
    button.setAttribute("aria-label", `Show all of event ${publication.offset ?? ""}`);
    button.addEventListener("click", () => this.openWhole(publication));
    return button;
  }

  // All rows have the same decimals and widths: when a new row changes them, all numbers are
  // rewritten.
  #align() {
    const columns = alignment(
      this.rows.map((row) => row.description),
      this.format,
    );
    const signature = JSON.stringify([...columns]);
    for (const row of this.rows) {
      if (row.aligned === signature) continue;
      for (const { part, value } of row.numbers) {
        const { decimals, width } = columns.get(part.key);
        value.textContent = this.format(part.number, decimals);
        value.style.minWidth = `${width}ch`;
      }
      row.aligned = signature;
    }
  }

  // Whether the text fits is known only after a layout; all rows are measured before any change.
  #findCut(rows) {
    this.element.classList.add("measuring");
    const cut = rows.map(
      (row) =>
        row.description.cut ||
        [row.value, ...row.value.querySelectorAll(".part-text, .part-code")].some(overflows),
    );
    this.element.classList.remove("measuring");
    rows.forEach((row, index) => (row.item.querySelector(".row-more").hidden = !cut[index]));
  }
}

function overflows(box) {
  return box.scrollWidth > box.clientWidth;
}

// The time, and below it the channel, if there are several, and the event's name unless it is the default.
function rowHead(publication, several) {
  const head = element("span", "row-head");
  head.append(timeButton(publication, Date.now()));
  const name = originText(publication, several);
  if (name) head.append(" ", element("span", "row-event", name));
  return head;
}

function placeholder() {
  const item = element("li", "row-item placeholder-row");
  item.setAttribute("aria-hidden", "true");
  return item;
}
