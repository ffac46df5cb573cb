// How many events, when the last one was, how fast they come. No DOM.

const REMEMBERED = 2000;
const WINDOW_MS = 10_000;
const FEWEST = 10;

/** Counts events; instants are milliseconds since 1970 on the server's clock. */
export class Tally {
  constructor() {
    this.count = 0;
    this.last = null;
    this.skew = Infinity;
    this.instants = [];
  }

  /**
   * Notes an event of that instant. `arrived` is the time here for one that came live, else
   * undefined.
   */
  add(instant, arrived) {
    this.count += 1;
    this.last = instant;
    this.instants.push(instant);
    if (this.instants.length > REMEMBERED * 2) this.instants.splice(0, REMEMBERED);
    // A live event arrives at once, so the shortest delay seen is the difference of the two clocks.
    if (arrived !== undefined) this.skew = Math.min(this.skew, arrived - instant);
  }

  /**
   * Milliseconds since the last event by the clock here, corrected for the difference of the
   * clocks.
   */
  age(now) {
    const skew = Number.isFinite(this.skew) ? this.skew : 0;
    return Math.max(0, now - this.last - skew);
  }

  /**
   * Events a second, over the last ten seconds or the last ten events; null when too few to tell.
   */
  get rate() {
    const { instants } = this;
    const end = instants.length - 1;
    if (end < 2) return null;
    let start = end;
    while (start > 0 && (end - start < FEWEST || instants[start - 1] >= instants[end] - WINDOW_MS))
      start--;
    const span = instants[end] - instants[start];
    // Of less than a second nothing can be said: eight at once are a burst and no rate.
    return span >= 1000 ? ((end - start) * 1000) / span : null;
  }
}
