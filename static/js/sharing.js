// One connection for all tabs of a browser with the same server and identity. One of the tabs leads: it has
// the connection, and passes to each other tab the events of the channels that this tab watches.
//
// The leader is the tab that holds a Web Lock, and tabs talk by BroadcastChannel. A SharedWorker would need
// no leader, but pages of another origin than the server's cannot load one, and Chrome for Android has had
// none for most of its life. Locks exist on https and localhost only; elsewhere each tab has its own
// connection. If the leader closes or crashes, the browser gives the lock to the next tab; if it is frozen,
// a visible tab misses its answers and takes the lock. The position of each watch is in its own tab, so a
// new leader continues from there: nothing is lost or given twice, whatever the last one had passed on.

import { Host } from "./host.js";

const VERSION = 1; // of the messages between tabs, which may have loaded different versions
// Durations are those of performance.now(), as the time of the day may be set.
const TICK_MS = 1000;
const LATE_MS = 5000; // a tick that is later: this tab itself was suspended
const PING_MS = 5000;
const SILENT_MS = 12_000; // without a word of the leader
const DOUBT_MS = 4000; // the same, for a leader that is not known, or when a tab becomes visible
const ABSENT_MS = 180_000; // without a ping; a hidden tab has one timer a minute
const DUE_MS = 1500; // after the leader should have tried to connect: its timers may be throttled

/** Whether this page can share a connection. */
export const canShare = Boolean(
  globalThis.navigator?.locks && globalThis.BroadcastChannel && globalThis.crypto?.subtle,
);

/** The name for all with the same values, which it does not tell. */
async function nameOf(values) {
  const bytes = new TextEncoder().encode(JSON.stringify(values));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const text = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return `pushserver ${VERSION} ${text}`;
}

/** The connection, shared by all tabs with the same `identity`. It exists while this page has peers. */
export class SharedLink {
  constructor(options, identity, onEmpty) {
    this.options = options;
    this.onEmpty = onEmpty;
    this.tab = crypto.randomUUID();
    this.peers = new Map(); // of this tab, by id
    this.ids = new Map(); // of these
    this.made = 0;
    this.waiting = []; // messages for the first leader
    this.host = null; // while this tab leads
    this.leader = null; // the tab, as far as known
    this.term = 0; // of the leader; the greater one counts
    this.tabs = new Map(); // while this tab leads, the others
    this.attempt = 0; // the number of the newest request of the lock
    this.#listenToPage();
    nameOf(identity).then((name) => {
      this.name = name;
      if (this.peers.size > 0) this.#begin();
    });
  }

  // --- for the servers of this tab ---------------------------------------

  attach(peer) {
    const id = `${this.tab} ${++this.made}`;
    this.peers.set(id, peer);
    this.ids.set(peer, id);
    this.#toLeader(id, { type: "attach" });
  }

  post(peer, message) {
    const id = this.ids.get(peer);
    if (id !== undefined) this.#toLeader(id, message);
  }

  detach(peer) {
    const id = this.ids.get(peer);
    this.ids.delete(peer);
    this.peers.delete(id);
    this.#toLeader(id, { type: "detach" });
    if (this.peers.size > 0) return;
    this.page.abort();
    this.#end();
    this.onEmpty();
  }

  // Later, so that a page has the result of its call first.
  #toLeader(id, message) {
    queueMicrotask(() => {
      if (this.host) this.#toHost(id, message);
      else if (this.leader) this.#toTab(this.leader, { id, message });
      else if (!this.term) this.waiting.push([id, message]);
      // Without the last leader, everything is asked for again when there is a next one.
    });
  }

  // --- the life of this tab ---------------------------------------

  #listenToPage() {
    this.page = new AbortController();
    const { signal } = this.page;
    const leave = () => this.#end();
    const enter = () => this.name && this.#begin();
    addEventListener("pagehide", leave, { signal });
    addEventListener("pageshow", ({ persisted }) => persisted && enter(), { signal });
    document.addEventListener("freeze", leave, { signal });
    document.addEventListener("resume", enter, { signal });
    document.addEventListener(
      "visibilitychange",
      () => document.visibilityState === "visible" && this.#doubt(),
      { signal },
    );
  }

  #begin() {
    if (this.running) return;
    this.running = true;
    this.common = new BroadcastChannel(this.name);
    this.common.onmessage = ({ data }) => this.#heardAll(data);
    this.inbox = new BroadcastChannel(`${this.name} ${this.tab}`);
    this.inbox.onmessage = ({ data }) => this.#heard(data);
    this.outboxes = new Map(); // by tab
    this.#lock({ ifAvailable: true });
  }

  #end() {
    if (!this.running) return;
    if (this.leader && !this.host) this.#toTab(this.leader, { type: "leave" });
    for (const outbox of this.outboxes.values()) {
      this.#flush(outbox);
      outbox.channel.close();
    }
    this.running = false;
    this.attempt += 1;
    this.#stopTimers();
    this.queueing?.abort();
    this.#stopLeading();
    this.leader = null;
    this.common.close();
    this.inbox.close();
  }

  #stopTimers() {
    clearInterval(this.ticking);
    clearTimeout(this.due);
  }

  // --- who leads ---------------------------------------

  async #lock(options) {
    const attempt = ++this.attempt;
    try {
      await navigator.locks.request(this.name, options, (lock) => {
        if (lock && attempt === this.attempt) return this.#lead();
      });
    } catch (error) {
      // AbortError: another tab took it. Any other: this page may have no locks, as in some frames.
      if (error.name !== "AbortError" && attempt === this.attempt) this.#lead();
      if (error.name !== "AbortError") return;
    }
    if (attempt === this.attempt) this.#follow();
  }

  /** Leads until the result is resolved. */
  #lead() {
    this.#stopTimers();
    const again = this.term > 0;
    this.term = Math.max(Date.now(), this.term + 1);
    this.leader = this.tab;
    this.tabs.clear();
    this.host = new Host({ ...this.options, again });
    this.common.postMessage({ type: "lead", tab: this.tab, term: this.term });
    this.ticking = setInterval(() => this.#dropAbsent(), ABSENT_MS / 4);
    this.#enlist(again);
    return new Promise((resolve) => (this.release = resolve));
  }

  #stopLeading() {
    this.host?.close();
    this.host = null;
    this.release?.();
    this.release = null;
  }

  #follow() {
    this.#stopTimers();
    this.#stopLeading();
    if (this.leader === this.tab) this.leader = null;
    this.common.postMessage({ type: "hello" });
    this.heard = performance.now();
    this.tickedAt = performance.now();
    this.pingedAt = -Infinity;
    this.patience = DOUBT_MS;
    this.ticking = setInterval(() => this.#tick(), TICK_MS);
    this.queueing = new AbortController();
    this.#lock({ signal: this.queueing.signal });
  }

  // Every peer of this tab, to a new leader.
  #enlist(again) {
    for (const [id, peer] of this.peers) {
      this.#toLeader(id, { type: "attach" });
      if (again) peer.renew();
    }
    const waiting = this.waiting.filter(([, { type }]) => type !== "attach");
    this.waiting = [];
    for (const [id, message] of waiting) this.#toLeader(id, message);
  }

  #heardAll({ type, tab, term }) {
    if (type === "hello") {
      if (this.host) this.common.postMessage({ type: "lead", tab: this.tab, term: this.term });
      return;
    }
    if (term < this.term || (term === this.term && this.leader)) return;
    const again = this.term > 0;
    this.term = term;
    if (this.host) return; // the lock is lost, which comes by itself
    this.leader = tab;
    this.#trust();
    this.#enlist(again);
  }

  #trust() {
    this.heard = performance.now();
    this.patience = SILENT_MS;
  }

  #doubt() {
    if (!this.running || this.host) return;
    this.#trust();
    this.patience = DOUBT_MS;
    this.#ping();
  }

  #ping() {
    this.pingedAt = performance.now();
    if (!this.leader) this.common.postMessage({ type: "hello" });
    // After the messages of this turn, one of which may attach a peer.
    else queueMicrotask(() => this.#toTab(this.leader, { type: "ping", ids: [...this.peers.keys()] }));
  }

  #tick() {
    const now = performance.now();
    const late = now - this.tickedAt > LATE_MS;
    this.tickedAt = now;
    if (late) this.#doubt();
    else if (now - this.heard > this.patience) this.#steal();
    else if (now - this.pingedAt > PING_MS) this.#ping();
  }

  #steal() {
    this.#stopTimers();
    this.queueing.abort();
    this.#lock({ steal: true });
  }

  // --- messages between tabs ---------------------------------------

  // Those of one turn in one message.
  #toTab(tab, message) {
    if (!this.running) return;
    let outbox = this.outboxes.get(tab);
    if (!outbox) {
      outbox = { channel: new BroadcastChannel(`${this.name} ${tab}`), messages: [] };
      this.outboxes.set(tab, outbox);
    }
    outbox.messages.push(message);
    if (outbox.messages.length === 1) queueMicrotask(() => this.#flush(outbox));
  }

  #flush(outbox) {
    const { channel, messages } = outbox;
    outbox.messages = [];
    const isOpen = this.running && [...this.outboxes.values()].includes(outbox);
    if (messages.length > 0 && isOpen) channel.postMessage({ from: this.tab, messages });
  }

  #heard({ from, messages }) {
    for (const message of messages) {
      if (this.host) this.#fromFollower(from, message);
      else if (from === this.leader) this.#fromLeader(message);
    }
  }

  #fromLeader({ type, id, message }) {
    this.#trust();
    if (type === "unknown") this.#enlist(true);
    else if (id) this.#deliver(id, message);
  }

  #deliver(id, message) {
    this.peers.get(id)?.receive(message);
    if (message.type === "state") this.#watchRetry(message.state);
  }

  #watchRetry({ retryAt }) {
    clearTimeout(this.due);
    if (retryAt === null) return;
    const due = () => this.leader && this.#toTab(this.leader, { type: "due" });
    this.due = setTimeout(due, retryAt - Date.now() + DUE_MS);
  }

  // --- as the leader ---------------------------------------

  #fromFollower(from, { type, id, ids, message }) {
    if (type === "leave") this.#dropTab(from);
    else if (type === "ping") this.#answerPing(from, ids);
    else if (type === "due") this.#retryIfDue();
    else if (id) this.#toHost(id, message, from);
  }

  #toHost(id, message, from) {
    if (message.type === "detach") this.#detach(id, from);
    else if (message.type !== "attach") this.host.receive(id, message);
    else if (from) this.#attach(id, from);
    else this.host.attach(id, (answer) => this.#receive(id, answer));
  }

  // A copy, as the same message goes to other tabs at the end of this turn, and a page may change its data.
  #receive(id, message) {
    this.peers.get(id)?.receive(this.tabs.size > 0 ? structuredClone(message) : message);
  }

  #attach(id, from) {
    const tab = this.tabs.get(from) ?? { ids: new Set() };
    this.tabs.set(from, tab);
    tab.ids.add(id);
    tab.seen = performance.now();
    this.host.attach(id, (message) => this.#toTab(from, { id, message }));
  }

  #detach(id, from) {
    this.tabs.get(from)?.ids.delete(id);
    this.host.detach(id);
  }

  #answerPing(from, ids) {
    const tab = this.tabs.get(from);
    const known = tab && ids.every((id) => tab.ids.has(id));
    if (known) tab.seen = performance.now();
    this.#toTab(from, { type: known ? "pong" : "unknown" });
  }

  #retryIfDue() {
    const { retryAt } = this.host.state;
    if (retryAt !== null && Date.now() > retryAt + DUE_MS / 2) this.host.retryNow();
  }

  #dropAbsent() {
    for (const [tab, { seen }] of this.tabs) if (performance.now() - seen > ABSENT_MS) this.#dropTab(tab);
  }

  #dropTab(tab) {
    for (const id of this.tabs.get(tab)?.ids ?? []) this.host.detach(id);
    this.tabs.delete(tab);
    this.outboxes.get(tab)?.channel.close();
    this.outboxes.delete(tab);
  }
}
