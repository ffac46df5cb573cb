// The list of the newest publications. Rows are moved and not recreated, so that the focus and a
// selection stay.

import { element } from "./dom.js";
import { alignment, describe, formatNumber } from "./values.js";
import { clock, fullTime } from "./times.js";

const MOST_PLACEHOLDERS = 10;
const ALL = { pick: (data) => data, format: formatNumber };

/**
 * Shows the newest `size` publications in an `<ol>`, with placeholders for those that are missing.
 * `openWhole(publication)` shows all of one; `pick(data)` returns the part to show, and
 * `format(number, decimals)` the text of a number.
 */
export class List {
  constructor(element, size, openWhole, { pick, format } = ALL) {
    this.element = element;
    this.size = size;
    this.openWhole = openWhole;
    this.pick = pick;
    this.format = format;
    this.rows = []; // newest first
    this.columns = "";
    // Which rows are cut depends on the width.
    this.resizes = new ResizeObserver(() => this.#findCut(this.rows));
    this.resizes.observe(element);
  }

  /** Shows these publications, newest last. */
  render(publications) {
    const wanted = publications.slice(-this.size);
    this.#drop(new Set(wanted));
    const shown = new Set(this.rows.map((row) => row.publication));
    const fresh = wanted
      .filter((publication) => !shown.has(publication))
      .map((publication) => this.#makeRow(publication));
    if (fresh.length === 0 && this.rows.length === wanted.length && this.complete) return;
    this.rows = [...fresh.reverse(), ...this.rows];
    this.element.prepend(...fresh.map((row) => row.item));
    this.#fill();
    this.#align();
    this.rows.forEach((row, index) => row.item.classList.toggle("newest", index === 0));
    this.#findCut(fresh);
    this.complete = true;
  }

  /** Shows up to `size` publications from now on, which may be others: all rows are made anew. */
  restart(size) {
    this.size = size;
    this.#drop(new Set());
  }

  /** Stops measuring. */
  destroy() {
    this.resizes.disconnect();
  }

  #drop(wanted) {
    const [keep, gone] = [[], []];
    for (const row of this.rows) (wanted.has(row.publication) ? keep : gone).push(row);
    for (const row of gone) row.item.remove();
    this.rows = keep;
    if (gone.length > 0) this.complete = false;
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
    item.append(rowHead(publication), value, this.#more(publication));
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

// The time, and below it the event's name unless it is the default.
function rowHead({ time, offset, event }) {
  const head = element("span", "row-head");
  const when = element("time", "row-when", clock(time, Date.now()));
  when.dateTime = new Date(time).toISOString();
  when.title = `${fullTime(time)}${offset === undefined ? "" : ` · offset ${offset}`}`;
  head.append(when);
  if (event !== "message") head.append(" ", element("span", "row-event", event));
  return head;
}

function placeholder() {
  const item = element("li", "row-item placeholder-row");
  item.setAttribute("aria-hidden", "true");
  return item;
}
