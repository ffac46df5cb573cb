// The points of the graph: times and one column of numbers for each line. No DOM.

const MIN_STEP = 1e-6; // seconds

/**
 * A bounded table of points. `names` are the lines in the order in which they appeared, at most
 * `maxLines`; a line whose last point has left the table is replaced by a new one.
 */
export class Points {
  constructor(maxPoints, maxLines) {
    this.maxPoints = maxPoints;
    this.maxLines = maxLines;
    this.clear();
  }

  clear() {
    this.times = [];
    this.columns = new Map();
    this.hasUndrawn = false;
  }

  get names() {
    return [...this.columns.keys()];
  }

  get length() {
    return this.times.length;
  }

  /**
   * Adds one publication's numbers; `instant` in milliseconds. One without numbers adds nothing.
   */
  add(instant, leaves) {
    for (const name of leaves.keys()) this.#open(name);
    if (![...leaves.keys()].some((name) => this.columns.has(name))) return;
    // uPlot needs increasing times, but a clock may be set back, and a burst may share one
    // millisecond.
    const previous = this.times.length > 0 ? this.times[this.times.length - 1] : 0;
    this.times.push(Math.max(instant / 1000, previous + MIN_STEP));
    for (const [name, column] of this.columns) column.push(leaves.get(name) ?? null);
    // Trimmed in batches, as each trim shifts all columns.
    if (this.times.length > this.maxPoints * 1.25 + 16) this.trim();
  }

  /** Removes the points over the bound. */
  trim() {
    const excess = this.times.length - this.maxPoints;
    if (excess <= 0) return;
    this.times.splice(0, excess);
    for (const [name, column] of this.columns) {
      column.splice(0, excess);
      if (column.every((number) => number === null)) this.columns.delete(name);
    }
  }

  /** The newest number of a line, or null. */
  last(name) {
    const column = this.columns.get(name);
    for (let index = column.length - 1; index >= 0; index--) {
      if (column[index] !== null) return column[index];
    }
    return null;
  }

  #open(name) {
    if (this.columns.has(name)) return;
    if (this.columns.size >= this.maxLines) {
      this.hasUndrawn = true;
      return;
    }
    this.columns.set(name, new Array(this.times.length).fill(null));
  }
}
