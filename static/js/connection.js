// One channel over the Centrifuge client protocol, with the official client, which reconnects and
// recovers. This file adds the needs of a view: no duplicates, a new history after a failed recovery,
// and a text for each state.

import { keepIntegers, keepTimes, listenToResult, networkEvents } from "./client.js";
import { answerReason, closeReason, failureReason, reconnectReason } from "./reasons.js";
import { Watching } from "./watching.js";

const MAX_DELAY_MS = 5000; // the client's default is 20 s, too long on a page that somebody looks at

/**
 * Watches one channel.
 *
 * options: `channel`; `transports`, a list of `{transport, endpoint}` with absolute URLs in order
 * of preference; `emulationEndpoint`; `last`, the number of publications to start with.
 *
 * handlers: `onState({name, reason, retryAt, canRetry})` with name connecting | live | reconnecting
 * | closed, the instant of the next attempt or null, and whether retryNow() would end the wait;
 * `onPublication({data, offset, event, time, live, again})`: live is false for one of the history,
 * again is true for one that was passed before; `onReset()`: clear the view, a history follows;
 * `onNotice(text)`; `onWatching(count, names)`: see watching.js.
 */
export class ChannelConnection {
  constructor(options, handlers) {
    this.options = options;
    this.handlers = handlers;
    this.reason = "";
    this.answered = ""; // the newest refusal of an HTTP transport, as a text
    this.epoch = null;
    this.last = 0; // offset of the newest publication passed to the handlers
    this.seen = 0; // the same, but kept while a history is passed again
    this.snapshot = false; // between a subscribe reply and the last publication in it
    this.held = null; // publications that arrived during a request for the history, or null
    this.stale = false; // the history must be fetched: recovery failed
    this.network = networkEvents();
    this.client = this.#makeClient();
    this.subscription = this.client.newSubscription(options.channel, {
      data: { last: options.last },
      joinLeave: true,
      recoverable: true,
      positioned: true,
    });
    this.watching = new Watching(this.subscription, handlers.onWatching);
    this.#listenToClient();
    this.#listenToSubscription();
    this.#reportDelays();
    keepTimes(this.client);
    keepIntegers(this.client);
  }

  /** Connects, also after a final close. */
  open() {
    this.reason = "";
    this.subscription.subscribe();
    this.#report("connecting");
    this.client.connect();
  }

  /** Ends the wait for the next attempt. */
  retryNow() {
    // The client has no method for this, but connects at once when the network comes back.
    this.network.dispatchEvent(new Event("online"));
    if (this.client.state === "connecting") this.#report("reconnecting");
  }

  #makeClient() {
    const { transports, emulationEndpoint } = this.options;
    // With a list, the client tries the next transport at once when one fails.
    const only = transports.length === 1 && transports[0].transport === "websocket";
    this.webSocketOnly = only;
    return new globalThis.Centrifuge(only ? transports[0].endpoint : transports, {
      name: "pushserver-page",
      emulationEndpoint,
      maxReconnectDelay: MAX_DELAY_MS,
      networkEventTarget: this.network,
      fetch: (url, options) => this.#fetch(url, options),
    });
  }

  // The client does not pass the server's answer, nor does a browser for a WebSocket.
  async #fetch(url, options) {
    this.answered = "";
    const response = await fetch(url, options);
    if (!response.ok) this.answered = answerReason(response.status, await textOf(response));
    return response;
  }

  // Requests the URL of the WebSocket for the answer, if no HTTP transport gets it.
  async #ask(context) {
    const { endpoint } = this.options.transports.find(({ transport }) => transport === "websocket");
    try {
      const { status } = await this.#fetch(endpoint.replace(/^ws/, "http"));
      // The answer to a request without Upgrade; that a proxy passes it on is known after a subscribe.
      if (status === 426 && this.epoch !== null) this.answered = "";
    } catch {
      // no answer
    }
    if (this.client.state !== "connecting") return;
    this.reason = failureReason(context, navigator.onLine, this.answered);
    this.#report("reconnecting", this.retryAt);
  }

  #report(name, retryAt = null) {
    this.retryAt = retryAt;
    // After the final end of the subscription, the state of the connection does not matter to the
    // reader.
    if (name !== "closed" && this.subscription.state === "unsubscribed") return;
    const canRetry = retryAt !== null && this.client.state === "connecting";
    this.handlers.onState({ name, reason: this.reason, retryAt, canRetry });
  }

  // --- events of the client ---------------------------------------

  #listenToClient() {
    this.client.on("connecting", (context) => {
      if (context.code === 0) return; // our own call of connect()
      this.reason = reconnectReason(context, navigator.onLine, this.answered);
      this.watching.forget();
      this.#report("reconnecting");
    });
    this.client.on("connected", ({ client, transport }) => {
      this.watching.self = client;
      this.answered = "";
      this.webSocketOnly = transport === "websocket"; // the client keeps a transport that worked
    });
    // A failed attempt of a client that is connecting causes only an error event.
    this.client.on("error", (context) => {
      this.reason = failureReason(context, navigator.onLine, this.answered);
      if (context.transport === "websocket" && this.webSocketOnly) this.#ask(context);
    });
    this.client.on("disconnected", (context) => {
      this.reason = closeReason(context);
      this.watching.forget();
      this.#report("closed");
    });
  }

  // The client does not publish its random delay. If a later version renames these methods, the page
  // still says that it reconnects, without the seconds.
  #reportDelays() {
    const report = (delay) => this.#report("reconnecting", Date.now() + delay);
    listenToResult(this.client, "_getReconnectDelay", report);
    listenToResult(this.subscription, "_getResubscribeDelay", (delay) => {
      // Without a connection, the subscription waits for the connection and not for its own delay.
      if (this.client.state === "connected") report(delay);
    });
  }

  // --- events of the subscription ---------------------------------------

  #listenToSubscription() {
    const { subscription } = this;
    subscription.on("subscribed", (context) => this.#subscribed(context));
    subscription.on("publication", (publication) => this.#received(publication));
    subscription.on("subscribing", ({ code, reason }) => {
      if (code < 100) return; // our own call, or a lost connection, which has its own events
      this.reason = reason;
      this.#report("reconnecting");
    });
    subscription.on("error", ({ error }) => {
      this.reason = error.message;
    });
    subscription.on("unsubscribed", (context) => {
      this.reason = closeReason(context);
      this.watching.forget();
      this.#report("closed");
    });
  }

  #subscribed(context) {
    this.reason = "";
    this.#report("live");
    const epoch = context.streamPosition?.epoch ?? "";
    // A channel without publications may come back with another epoch, and is recovered.
    if (context.recovered) this.epoch = epoch;
    else this.#startAgain(epoch, context.wasRecovering);
    // The client emits the publications of the reply in the same turn, right after this event.
    this.snapshot = true;
    queueMicrotask(() => (this.snapshot = false));
    if (this.stale) this.#fetchHistory();
    this.watching.begin();
  }

  // For a first subscribe or a failed recovery; after that, the reply has no publications.
  #startAgain(epoch, wasRecovering) {
    const first = this.epoch === null;
    if (first || !wasRecovering) {
      if (!first) this.handlers.onReset();
      this.#enterEpoch(epoch);
      return;
    }
    this.stale = true;
    this.newEpoch = epoch;
  }

  // The next publications are those of the history; offsets of another epoch cannot be compared.
  #enterEpoch(epoch) {
    if (epoch !== this.epoch) this.seen = 0;
    this.epoch = epoch;
    this.last = 0;
  }

  // --- publications ---------------------------------------

  #received(publication) {
    if (this.held) this.#hold(publication);
    else this.#pass(publication, !this.snapshot);
  }

  #pass({ data, offset, tags, time }, live) {
    if (offset <= this.last) return;
    const again = offset <= this.seen;
    this.last = offset ?? this.last;
    this.seen = Math.max(this.seen, this.last);
    this.handlers.onPublication({
      data,
      offset,
      event: tags?.event ?? "message",
      time: time ?? Date.now(),
      live,
      again,
    });
  }

  #hold(publication) {
    this.held.push(publication);
    if (this.held.length > this.options.last) this.held.shift();
  }

  async #fetchHistory() {
    if (this.held) return;
    this.held = [];
    try {
      const history = await this.subscription.history({ limit: this.options.last, reverse: true });
      history.publications.sort((one, other) => one.offset - other.offset);
      this.#redraw(history);
    } catch {
      // If still subscribed, the server keeps no history or is too slow: continue without it.
      // Otherwise the connection is lost again, and the next subscribe requests the history.
      if (this.subscription.state === "subscribed") {
        this.#redraw({ epoch: this.newEpoch, offset: 0, publications: [] });
      }
    }
    const held = this.held;
    this.held = null;
    if (!this.stale) for (const publication of held) this.#pass(publication, true);
  }

  #redraw(history) {
    const missed = this.#missed(history);
    if (missed) this.handlers.onNotice(missed);
    this.stale = false;
    this.#enterEpoch(history.epoch);
    this.handlers.onReset();
    for (const publication of history.publications) this.#pass(publication, false);
  }

  // The notice for the reader; none if the history overlaps with the publications already shown.
  #missed({ epoch, offset, publications }) {
    if (this.last === 0) return "";
    if (epoch !== this.epoch) {
      return "The server began a new history; some events before it may be missing here.";
    }
    const oldest = publications[0]?.offset ?? offset + 1;
    const count = oldest - this.last - 1;
    if (count <= 0) return "";
    return count === 1
      ? "One event came and went while this page was away."
      : `${count.toLocaleString("en")} events came and went while this page was away.`;
  }
}

async function textOf(response) {
  try {
    return await response.text();
  } catch {
    return "";
  }
}
