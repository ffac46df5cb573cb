// The number of events, the time of the last one, and their rate. No DOM.

const REMEMBERED = 2000;
const WINDOW_MS = 10_000;
const MIN_EVENTS = 10;

/** Counts events; instants are milliseconds since 1970 on the server's clock. */
export class Tally {
  constructor() {
    this.count = 0;
    this.last = null;
    this.skew = Infinity;
    this.instants = [];
  }

  /**
   * Counts an event of that instant. `arrived` is the local time of a live event, else undefined.
   */
  add(instant, arrived) {
    this.count += 1;
    this.last = instant;
    this.instants.push(instant);
    if (this.instants.length > REMEMBERED * 2) this.instants.splice(0, REMEMBERED);
    // A live event arrives at once, so the shortest delay is the difference of the two clocks.
    if (arrived !== undefined) this.skew = Math.min(this.skew, arrived - instant);
  }

  /**
   * Milliseconds since the instant, that of the last event by default, by the clock here, corrected
   * for the difference of the clocks.
   */
  age(now, instant = this.last) {
    const skew = Number.isFinite(this.skew) ? this.skew : 0;
    return Math.max(0, now - instant - skew);
  }

  /**
   * Events a second, over the last ten seconds or the last ten events; null if there are too few.
   */
  get rate() {
    const { instants } = this;
    const end = instants.length - 1;
    if (end < 2) return null;
    let start = end;
    const oldest = instants[end] - WINDOW_MS;
    while (start > 0 && (end - start < MIN_EVENTS || instants[start - 1] >= oldest)) start--;
    const span = instants[end] - instants[start];
    // Less than a second is too short: eight events at once are a burst and no rate.
    return span >= 1000 ? ((end - start) * 1000) / span : null;
  }
}
