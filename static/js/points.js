// The points of the graph: times and one column for each line, with numbers, null for a gap, and
// undefined where the publication had no such value. No DOM.

const MIN_STEP = 1e-6; // seconds
const SET_BACK = 60; // seconds
const MOST = 1e300; // farther apart, two numbers have no distance that can be drawn

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
   * Adds one publication's numbers; `instant` in milliseconds. A null ends its line until the next
   * number, and the lines of the names below it ("room" for "room.temp"); a line without a leaf
   * continues. A publication without a value for any line adds nothing. When the clock was set back by more
   * than a minute, the points that are now in the future are removed.
   */
  add(instant, leaves) {
    const gaps = [];
    for (const [name, value] of leaves) {
      if (value === null) gaps.push(name);
      else this.#open(name);
    }
    const values = this.names.map((name) => leaves.get(name) ?? nullAt(name, gaps));
    if (values.every((value) => value === undefined)) return;
    // uPlot needs increasing times, but a clock may be set back, and a burst may share one
    // millisecond.
    this.#setBack(instant / 1000);
    const previous = this.times.at(-1) ?? 0;
    this.times.push(Math.max(instant / 1000, previous + MIN_STEP));
    let index = 0;
    for (const column of this.columns.values()) column.push(values[index++]);
    // Trimmed in batches, as each trim shifts all columns.
    if (this.times.length > this.maxPoints * 1.25 + 16) this.trim();
  }

  /** Ends all lines until their next numbers. */
  interrupt() {
    if (this.length === 0) return;
    this.times.push(this.times.at(-1) + MIN_STEP);
    for (const column of this.columns.values()) column.push(null);
  }

  /** Removes the points over the bound. */
  trim() {
    const excess = this.times.length - this.maxPoints;
    if (excess <= 0) return;
    this.times.splice(0, excess);
    for (const [name, column] of this.columns) {
      column.splice(0, excess);
      if (!column.some(isPresent)) this.columns.delete(name);
    }
  }

  /** The newest number of a line, or undefined. */
  last(name) {
    return this.columns.get(name).findLast(isPresent);
  }

  /** The index of the first point that is no older than so many seconds before the newest one; 0: of all. */
  since(seconds) {
    if (seconds === 0) return 0;
    const from = this.times.at(-1) - seconds;
    return Math.max(0, this.times.findIndex((time) => time >= from));
  }

  /** The numbers of a line as uPlot draws them: BigInts are rounded, and none is beyond 1e300. */
  drawn(name) {
    const column = this.columns.get(name);
    return column.every(isDrawable) ? column : column.map(drawable);
  }

  #setBack(now) {
    if (!(this.times.at(-1) > now + SET_BACK)) return;
    const first = this.times.findIndex((time) => time > now);
    this.times.length = first;
    for (const column of this.columns.values()) column.length = first;
  }

  #open(name) {
    if (this.columns.has(name)) return;
    if (this.columns.size >= this.maxLines) {
      this.hasUndrawn = true;
      return;
    }
    this.columns.set(name, new Array(this.times.length).fill(undefined));
  }
}

/** Whether there is a number: neither null (a gap) nor undefined (no measurement). */
export function isPresent(value) {
  return value !== null && value !== undefined;
}

function isDrawable(value) {
  return typeof value !== "bigint" && !(Math.abs(value) > MOST);
}

function drawable(value) {
  return isPresent(value) ? Math.min(MOST, Math.max(-MOST, Number(value))) : value;
}

function nullAt(name, gaps) {
  return gaps.some((gap) => name === gap || name.startsWith(`${gap}.`)) ? null : undefined;
}
