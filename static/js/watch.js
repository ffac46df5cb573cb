// One watch of a channel: gives each publication once and in order, with its history, and says when
// events are missing. The client's own recovery covers a lost connection; this file covers a failed
// recovery, and a watch that joins a subscription which exists.

import { Watching } from "./watching.js";

const PAGE = 500; // publications of one history request
const MOST_HELD = 1000; // publications that wait for the history; after that, it is read further
const NEW_HISTORY = "the server began a new history; some events before it may be missing here";
const FORGOTTEN = "the server no longer has them";
const none = () => {};
const NO_HANDLERS = { onEvent: none, onGap: none, onReset: null, onState: none, onWatching: none };
const UNRECOVERABLE = 112; // the code of a position that the server cannot continue from

/**
 * `options`: `channel`, `last` (undefined: the server decides), `event` (undefined: all of them),
 * `since` (the position {epoch, offset} to begin after, or undefined) and `joins`, whether `onWatching`
 * is called.
 *
 * `handlers`: `onEvent({data, event, time, offset, info, live, again})`, where live is false for a
 * retained publication, and again is true for one that was passed before an `onReset()`; `onGap({missed,
 * reason})`; `onReset()`, after which the history follows, or null if the handlers must get no event
 * twice; `onState({state, reason, retryAt, canRetry})`; `onWatching(count, names)`.
 *
 * `request(method, ...parameters)` asks the server, and rejects with an Error that has a `code`.
 */
export class Watch {
  constructor(options, handlers, request) {
    this.options = options;
    this.handlers = handlers;
    this.request = request;
    const { epoch = null, offset = 0 } = options.since ?? {};
    this.epoch = epoch;
    this.last = offset; // offset of the newest publication passed to the handlers
    this.seen = offset; // the same, but kept while a history is passed again
    this.oldest = null; // offset of the oldest publication passed
    this.newest = -Infinity; // the time of the newest publication passed
    this.known = -Infinity; // the same when the server began a new history
    this.lost = false; // the position cannot be continued from: the newest publications are next
    this.behind = false; // publications after the position have to be requested
    this.held = null; // publications that arrived during a request for the history, or null
    this.recovery = 0; // the number of the newest recovery; an older one ends
    this.subscribed = false;
    this.there = null; // the position of the server at the newest subscribe
    this.top = 0; // the offset of the newest publication then
    this.ended = ""; // the reason of a final end
    this.begun = new Promise((resolve) => (this.begin = resolve));
    this.older = Promise.resolve(); // the end of the last request for older events
    const ask = (method) => request(method, options.channel);
    this.watching = options.joins ? new Watching(ask, handlers.onWatching) : null;
  }

  /** The position to continue from on another connection, or null. */
  get position() {
    if (this.epoch === null || this.lost) return null;
    return { epoch: this.epoch, offset: this.last };
  }

  // --- messages of the connection ---------------------------------------

  receive(message) {
    const { type } = message;
    if (type === "subscribed") this.#subscribed(message);
    else if (type === "joined") this.#joined(message);
    else if (type === "publications") this.#received(message.publications);
    else if (type === "subscribing") this.#subscribing(message);
    else if (type === "unsubscribed") this.#unsubscribed(message);
    else this.watching?.changed(type, message.info);
  }

  /** The state of the connection has changed; `id` is that of the connection. */
  connection(state, id) {
    this.connected = state.state === "live";
    if (this.watching) this.watching.self = id;
    if (this.connected) return; // live when subscribed
    this.#leave();
    if (this.ended && state.state !== "closed") return;
    this.ended = "";
    this.handlers.onState(state);
  }

  /** The connection is another one. */
  renew() {
    this.#leave();
  }

  /** Also for the rest of a batch, if one of the handlers calls this. */
  stop() {
    this.recovery += 1;
    this.#leave();
    this.handlers = NO_HANDLERS;
  }

  #leave() {
    this.subscribed = false;
    this.watching?.forget();
  }

  #subscribing({ reason, retryAt }) {
    this.#leave();
    this.ended = "";
    this.handlers.onState({ state: "reconnecting", reason, retryAt, canRetry: false });
  }

  #unsubscribed({ reason }) {
    this.#leave();
    this.ended = reason;
    this.handlers.onState({ state: "closed", reason, retryAt: null, canRetry: false });
  }

  #live() {
    this.ended = "";
    this.subscribed = true;
    this.handlers.onState({ state: "live", reason: "", retryAt: null, canRetry: false });
    this.watching?.begin();
  }

  #subscribed({ context, publications }) {
    this.#live();
    const { recovered, wasRecovering, epoch, offset, initial, top } = context;
    this.initial = initial;
    this.top = top;
    this.there = { epoch, offset };
    const first = this.epoch === null;
    // It joined the subscription, and the request for its first history was cut off.
    if (first && this.lost) {
      this.#recover(publications);
      return;
    }
    // A channel without publications may come back with another epoch, and is recovered.
    if (recovered) this.epoch = epoch;
    else if (first) this.#enterEpoch(epoch, (publications[0]?.offset ?? offset + 1) - 1);
    else if (wasRecovering) this.lost = true;
    if (this.lost || this.behind) this.#recover(publications);
    else this.#passAll(publications);
    if (first) this.#advance(offset);
    this.begin();
  }

  #joined({ epoch, offset, initial, top }) {
    this.#live();
    this.initial = initial;
    this.top = top;
    this.there = { epoch, offset };
    const first = this.epoch === null;
    if (first && this.#wanted() === 0) {
      this.#enterEpoch(epoch, offset);
      this.#advance(offset);
    } else if (first || (epoch !== this.epoch && this.last > 0)) this.lost = true;
    else if (epoch !== this.epoch || offset > this.last) this.behind = true;
    if (this.lost || this.behind) this.#recover([]);
    else this.begin();
  }

  #wanted() {
    return this.options.last ?? this.initial ?? 0;
  }

  // --- publications ---------------------------------------

  #received(publications) {
    if (this.held) this.#hold(publications);
    else if (this.epoch !== null) this.#passPushed(publications);
  }

  // The rest of a long history is pushed too, after the reply to the subscribe.
  #passPushed(publications) {
    for (const publication of publications) this.#pass(publication, !(publication.offset <= this.top));
  }

  #passAll(publications) {
    for (const publication of publications) this.#pass(publication, false);
  }

  #pass(publication, live) {
    const { offset, time } = publication;
    if (offset <= this.last) return;
    const again = offset <= this.seen || (!live && time <= this.known);
    this.newest = Math.max(this.newest, time);
    if (offset > this.seen + 1) this.#gap(offset - this.seen - 1, FORGOTTEN);
    this.#advance(offset ?? this.last);
    this.oldest ??= offset;
    if (this.#isWanted(publication)) this.handlers.onEvent({ ...publication, live, again });
  }

  #isWanted({ event }) {
    return this.options.event === undefined || event === this.options.event;
  }

  #advance(offset) {
    this.last = Math.max(this.last, offset);
    this.seen = Math.max(this.seen, offset);
  }

  // The next publications are those of the history; offsets of another epoch cannot be compared, but
  // it may have publications of the one before, which keep their times.
  #enterEpoch(epoch, seen) {
    this.known = this.newest;
    this.epoch = epoch;
    this.last = 0;
    this.oldest = null;
    this.seen = seen;
  }

  #gap(missed, reason) {
    this.seen += missed ?? 0;
    this.handlers.onGap({ missed, reason });
  }

  // --- recovery from the history ---------------------------------------

  #hold(publications) {
    this.held.push(...publications);
    if (this.held.length <= MOST_HELD) return;
    this.held = [];
    this.behind = true;
  }

  async #recover(publications) {
    const number = ++this.recovery;
    const current = () => number === this.recovery;
    this.held = [...publications];
    try {
      if (this.lost) await this.#startOver(current);
      while (this.behind && current()) await this.#continue(current);
    } catch (error) {
      if (!current()) return;
      // If still subscribed, the server keeps no history or is too slow: continue without it.
      // Otherwise the connection is lost again, and the next subscribe requests the history.
      if (this.subscribed) this.#giveUp(error);
    }
    if (!current()) return;
    const { held } = this;
    this.held = null;
    if (this.lost || this.behind) return;
    this.#passPushed(held);
    this.begin();
  }

  // The newest publications, for a new watch or after a failed recovery.
  async #startOver(current) {
    const history = await this.#history({ limit: this.#wanted(), reverse: true });
    if (!current()) return;
    const { epoch, offset, publications } = history;
    const before = (publications[0]?.offset ?? offset + 1) - 1;
    const first = this.epoch === null;
    if (!first && epoch !== this.epoch) this.#gap(null, NEW_HISTORY);
    if (epoch !== this.epoch) this.#enterEpoch(epoch, before);
    else if (before > this.seen) this.#gap(before - this.seen, FORGOTTEN);
    this.lost = false;
    if (!first && this.handlers.onReset) {
      this.last = 0;
      this.oldest = null;
      this.handlers.onReset();
    }
    this.#passAll(publications);
    this.#advance(offset);
  }

  // The publications after the position.
  async #continue(current) {
    const since = { epoch: this.epoch, offset: this.last };
    let history;
    try {
      history = await this.#history({ since, limit: PAGE });
    } catch (error) {
      if (error.code !== UNRECOVERABLE || !current()) throw error;
      this.lost = true;
      this.behind = false;
      await this.#startOver(current);
      return;
    }
    if (!current()) return;
    this.behind = false;
    this.epoch = history.epoch;
    this.#passAll(history.publications);
    if (history.publications.length === PAGE) this.behind = true;
    else this.#advance(history.offset);
  }

  #giveUp(error) {
    const { epoch, offset } = this.there;
    this.lost = false;
    this.behind = false;
    if (epoch !== this.epoch) {
      this.#enterEpoch(epoch, offset);
      this.handlers.onReset?.();
    }
    this.#gap(null, `the history could not be read: ${error.message}`);
    this.#advance(offset);
  }

  async #history(options) {
    const history = await this.request("history", this.options.channel, options);
    const publications = history.publications
      .map(({ data, offset, tags, time, info }) => ({
        data,
        offset,
        event: tags?.event ?? "message",
        time: time ?? Date.now(),
        info,
      }))
      .sort((one, other) => one.offset - other.offset);
    return { ...history, publications };
  }

  // --- older publications ---------------------------------------

  /** The `count` events before the oldest one, oldest first; empty if there are none. */
  more(count) {
    const result = this.older.then(() => this.#more(count));
    this.older = result.catch(() => {});
    return result;
  }

  async #more(count) {
    await this.begun;
    const found = [];
    for (;;) {
      const since = { epoch: this.epoch, offset: this.oldest ?? this.last + 1 };
      const page = await this.#history({ since, limit: count - found.length, reverse: true });
      const { publications } = page;
      if (publications.length > 0 && since.epoch === this.epoch) this.oldest = publications[0].offset;
      found.unshift(...publications.filter((one) => this.#isWanted(one)));
      if (publications.length === 0 || found.length === count || since.epoch !== this.epoch) break;
    }
    return found.map((publication) => ({ ...publication, live: false, again: false }));
  }
}
