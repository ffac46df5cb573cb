// The newest publications as a table: a row for each, a column for each field.

import { element, setText } from "./dom.js";
import { fieldOf } from "./fields.js";
import { Keyed } from "./keyed.js";
import { Opening, timeButton } from "./opening.js";
import { alignment, describeValue, formatNumber } from "./values.js";

const MOST_COLUMNS = 12;

/** Shows publications in a `<table>` with a head and a body; `several`: with a column for their channel. */
export class Table {
  constructor(table, more, openWhole, several = false) {
    this.head = table.tHead;
    this.more = more; // shown if there are more fields than columns
    this.several = several;
    this.columns = [];
    this.signature = "";
    this.keyed = new Keyed(table.tBodies[0], (publication) => this.#makeRow(publication));
    this.opening = new Opening(this.keyed, openWhole);
  }

  /** Shows these publications, newest last, with these fields as columns. */
  render(publications, fields) {
    this.#setColumns(fields);
    const { fresh, gone } = this.keyed.update(publications);
    if (fresh.length === 0 && gone === 0) return;
    this.#align();
    this.keyed.rows.forEach(({ item }, index) => item.classList.toggle("newest", index === 0));
    this.opening.update();
  }

  /** Makes all rows anew. */
  restart() {
    this.keyed.clear();
    this.opening.update();
  }

  #setColumns(fields) {
    const columns = fields.slice(0, MOST_COLUMNS);
    this.more.hidden = fields.length <= MOST_COLUMNS;
    if (JSON.stringify(columns) === JSON.stringify(this.columns) && this.head.rows.length > 0) return;
    this.columns = columns;
    this.restart();
    const row = element("tr", "");
    for (const name of ["Time", ...(this.several ? ["Channel"] : []), "Event"]) row.append(headCell(name));
    for (const name of columns) {
      const cell = headCell(name);
      cell.dataset.field = name;
      row.append(cell);
    }
    this.head.replaceChildren(row);
  }

  #makeRow(publication) {
    const { channel, event, data, offset } = publication;
    const item = element("tr", "");
    item.dataset.offset = String(offset ?? "");
    const head = element("th", "");
    head.scope = "row";
    head.append(timeButton(publication, Date.now()));
    item.append(head);
    if (this.several) item.append(element("td", "cell-text", channel));
    item.append(element("td", "cell-text", event));
    const parts = [];
    const numbers = [];
    for (const name of this.columns) {
      const value = fieldOf(data, name);
      const part = value === undefined ? null : describeValue(name, value);
      const cell = element("td", part ? `cell-${part.kind}` : "", part && part.kind !== "number" ? part.text : "");
      if (part) parts.push(part);
      if (part?.kind === "number") numbers.push({ part, cell });
      item.append(cell);
    }
    return { publication, item, description: { parts }, numbers, aligned: "" };
  }

  // The numbers of a column have the same decimals.
  #align() {
    const { rows } = this.keyed;
    const columns = alignment(rows.map((row) => row.description));
    const signature = JSON.stringify([...columns]);
    for (const cell of this.head.rows[0].cells) cell.classList.toggle("cell-number", columns.has(cell.dataset.field));
    for (const row of rows) {
      if (row.aligned === signature) continue;
      for (const { part, cell } of row.numbers) setText(cell, formatNumber(part.number, columns.get(part.key).decimals));
      row.aligned = signature;
    }
  }
}

function headCell(name) {
  const cell = element("th", "", name);
  cell.scope = "col";
  cell.title = name;
  return cell;
}
