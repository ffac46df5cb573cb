// One subscription of the client, for several watches of the same channel.

import { listenToResult } from "./client.js";
import { closeReason } from "./reasons.js";

/**
 * Messages to the peers, each with the `channel`: `subscribed` {watch, context, publications}, `joined`
 * {watch, epoch, offset, initial, top} for a watch of a subscription that exists, `publications`, `subscribing`
 * {reason, retryAt}, `unsubscribed` {reason}, `join` and `leave` {info}. Without a `watch`, a message is
 * for all watches of the channel.
 */
export class Feed {
  constructor(client, channel, onEmpty) {
    this.client = client;
    this.channel = channel;
    this.onEmpty = onEmpty;
    this.watches = new Map(); // by peer and watch
    this.position = null; // {epoch, offset} of the newest publication
    this.opener = ""; // the watch that the subscription was made for, until its first reply
    this.reply = null; // the subscribe reply whose publications are being emitted
  }

  /** Adds a watch: `{watch, last, since, joins}`; `since` is its position, null for a new one. */
  add(peer, { watch, last, since, joins }) {
    const key = `${peer.id} ${watch}`;
    const entry = { peer, watch, begun: false };
    this.watches.set(key, entry);
    if (!this.subscription) {
      this.opener = key;
      this.#subscribe({ data: { last, initial: true }, since, joins });
    } else if (this.subscription.state === "subscribed" && !this.reply) {
      // Joins and leaves need another subscription, from this position.
      if (joins && !this.joins) this.#replace();
      else this.#join(entry);
    } else {
      this.open();
    }
  }

  /** Subscribes again after a final end. */
  open() {
    if (this.subscription.state === "unsubscribed") this.subscription.subscribe();
  }

  drop(peer, watch) {
    this.watches.delete(`${peer} ${watch}`);
    this.#closeIfEmpty();
  }

  dropPeer(id) {
    for (const [key, { peer }] of this.watches) if (peer.id === id) this.watches.delete(key);
    this.#closeIfEmpty();
  }

  #closeIfEmpty() {
    if (this.watches.size > 0 || !this.subscription) return;
    this.#end();
    this.onEmpty();
  }

  #end() {
    const { subscription } = this;
    this.subscription = null;
    subscription.removeAllListeners();
    subscription.unsubscribe();
    this.client.removeSubscription(subscription);
  }

  #replace() {
    this.#end();
    const data = { last: 0, initial: true };
    this.#subscribe({ data, since: this.position, joins: true });
  }

  #subscribe({ data, since, joins }) {
    this.joins = joins;
    let subscription;
    try {
      subscription = this.client.newSubscription(this.channel, {
        data,
        joinLeave: joins,
        recoverable: true,
        positioned: true,
        ...(since && { since }),
      });
    } catch (error) {
      this.#refused(error);
      return;
    }
    this.subscription = subscription;
    this.#listen(subscription);
    subscription.subscribe();
  }

  // The client takes no subscription of this name; the other channels are not concerned.
  #refused({ message }) {
    this.#tell({ type: "unsubscribed", reason: `the client cannot watch ${this.channel}: ${message}` });
    this.watches.clear();
    this.onEmpty();
  }

  #listen(subscription) {
    subscription.on("subscribed", (context) => this.#subscribed(context));
    subscription.on("publication", (publication) => this.#received(publication));
    subscription.on("subscribing", ({ code, reason }) => {
      if (code < 100) return; // our own call, or a lost connection, which has its own events
      this.#tell({ type: "subscribing", reason, retryAt: null });
    });
    subscription.on("error", ({ error }) => (this.failure = error.message));
    subscription.on("unsubscribed", (context) => {
      this.#tell({ type: "unsubscribed", reason: closeReason(context) });
    });
    for (const type of ["join", "leave"]) {
      subscription.on(type, ({ info }) => this.#tell({ type, info }));
    }
    // See the same of the client in host.js.
    listenToResult(subscription, "_getResubscribeDelay", (delay) => {
      // Without a connection, the subscription waits for the connection and not for its own delay.
      if (this.client.state !== "connected") return;
      const retryAt = Date.now() + delay;
      this.#tell({ type: "subscribing", reason: this.failure ?? "", retryAt });
    });
  }

  #subscribed({ recovered, wasRecovering, streamPosition, data }) {
    const { epoch = "", offset = 0 } = streamPosition ?? {};
    this.failure = "";
    this.position = { epoch, offset };
    this.initial = data?.initial ?? 0; // the number of publications for a watch that requests none
    // The client emits the publications of the reply in the same turn, right after this event.
    const { initial } = this;
    // Publications up to this offset are retained ones, also those that come after the reply.
    this.top = data?.top ?? offset;
    const context = { recovered, wasRecovering, epoch, offset, initial, top: this.top };
    const reply = { context, publications: [] };
    this.reply = reply;
    queueMicrotask(() => {
      if (this.reply === reply) this.#pass(reply);
    });
  }

  #pass(reply) {
    const first = this.opener;
    this.reply = null;
    this.opener = "";
    for (const [key, entry] of this.watches) {
      const { peer, watch, begun } = entry;
      if (!begun && key !== first) {
        this.#join(entry);
        continue;
      }
      entry.begun = true;
      peer.post({ type: "subscribed", channel: this.channel, watch, ...reply });
    }
  }

  #join(entry) {
    entry.begun = true;
    const { peer, watch } = entry;
    const { channel, initial, top } = this;
    peer.post({ type: "joined", channel, watch, initial, top, ...this.position });
  }

  #received({ data, offset, tags, time, info }) {
    const event = tags?.event ?? "message";
    const publication = { data, offset, event, time: time ?? Date.now(), info };
    if (offset !== undefined) this.position.offset = offset;
    if (this.reply) this.reply.publications.push(publication);
    else this.#tell({ type: "publications", publications: [publication] });
  }

  // Once to each peer.
  #tell(message) {
    const peers = new Set([...this.watches.values()].map(({ peer }) => peer));
    for (const peer of peers) peer.post({ ...message, channel: this.channel });
  }
}
