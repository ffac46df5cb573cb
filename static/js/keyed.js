// Rows of a list or table by their publications. They are moved and not recreated, so that the focus and a
// selection stay.

/** The rows in `element`, the newest first; `makeRow(publication)` returns `{publication, item, ...}`. */
export class Keyed {
  constructor(element, makeRow) {
    this.element = element;
    this.makeRow = makeRow;
    this.rows = [];
  }

  /**
   * Shows these publications, newest last. Returns `{fresh, gone}`: the new rows, and the number of those
   * that were removed.
   */
  update(wanted) {
    const gone = this.#drop(new Set(wanted));
    const shown = new Set(this.rows.map((row) => row.publication));
    const made = wanted.filter((publication) => !shown.has(publication));
    const fresh = made.map((publication) => this.makeRow(publication)).reverse();
    // Without another channel, new publications are the newest ones.
    const isOrdered = fresh.every(({ publication }, index) => publication === wanted[wanted.length - 1 - index]);
    if (isOrdered) {
      this.rows = [...fresh, ...this.rows];
      this.element.prepend(...fresh.map((row) => row.item));
    } else {
      this.#sort(fresh, wanted);
    }
    return { fresh, gone };
  }

  /** Removes all rows. */
  clear() {
    return this.#drop(new Set());
  }

  #sort(fresh, wanted) {
    const byPublication = new Map([...fresh, ...this.rows].map((row) => [row.publication, row]));
    this.rows = wanted.map((publication) => byPublication.get(publication)).reverse();
    this.element.prepend(...this.rows.map((row) => row.item));
  }

  #drop(wanted) {
    const [keep, gone] = [[], []];
    for (const row of this.rows) (wanted.has(row.publication) ? keep : gone).push(row);
    const hadFocus = gone.some(({ item }) => item.contains(item.getRootNode().activeElement));
    for (const row of gone) row.item.remove();
    this.rows = keep;
    // The keyboard stays in the list.
    if (hadFocus) keep.at(-1)?.item.querySelector(".row-open")?.focus();
    return gone.length;
  }
}
