// A page's connection to pushserver: live channels, calls and messages, in one import.
//
//   import { connect } from "/static/pushserver.js";
//   connect().watch("numbers", ({ data }) => console.log(data));
//
// The reference is docs/browser.md; the types are in pushserver.d.ts. The protocol is that of the official
// Centrifuge client, which this file loads.

import "./vendor/centrifuge-5.8.0/centrifuge.js";
import { channelName, checkOptions, eventName, jsonValue, listener, serverUrl } from "./js/arguments.js";
import { linkTo } from "./js/link.js";
import { partsOf } from "./js/parts.js";
import { callError } from "./js/reasons.js";
import { Watch } from "./js/watch.js";

const ROOT = new URL("..", import.meta.url);
const CONNECT_OPTIONS = ["data", "getToken", "key", "name", "share", "token"];
const WATCH_OPTIONS = ["event", "last", "onGap", "onReset", "onState", "onWatching", "since"];

/** Connects to the server at `url`, by default the one that this module comes from. */
export function connect(url, options) {
  if (typeof url === "object" && url !== null && !(url instanceof URL)) {
    if (options !== undefined) throw new TypeError(`connect(): expected a URL, not ${typeof url}`);
    return connect(undefined, url);
  }
  const root = serverUrl(url, ROOT);
  const given = checkOptions("connect", options, CONNECT_OPTIONS);
  return new Server(linkTo({ root, name: "pushserver-js", ...given }));
}

/** The parts of the live page; each has an element, a channel and options, and `stop()`. */
export const { graph, list, number } = partsOf(connect);

class Server {
  #link;
  #peer;
  #state = { state: "connecting", reason: "", retryAt: null, canRetry: false };
  #id = "";
  #watches = new Map(); // by channel, sets of [number, Watch]
  #requests = new Map(); // by number
  #listeners = new Map(); // by event
  #stateListeners = new Set();
  #number = 0;

  constructor(link) {
    this.#link = link;
    this.#peer = { receive: (message) => this.#receive(message), renew: () => this.#renew() };
    link.attach(this.#peer);
  }

  /** "connecting", "live", "reconnecting" or "closed". */
  get state() {
    return this.#state.state;
  }

  /** Why the state is not "live", in words; empty if it is, or if nothing has gone wrong yet. */
  get reason() {
    return this.#state.reason;
  }

  /** Calls `onEvent` with each event of the channel. */
  watch(channel, onEvent, options) {
    const name = channelName("watch", channel);
    listener("watch", "onEvent", onEvent);
    const given = checkOptions("watch", options, WATCH_OPTIONS);
    this.#checkOpen("watch");
    const number = ++this.#number;
    const watch = this.#makeWatch(name, onEvent, given);
    const ofChannel = this.#watches.get(name) ?? new Map();
    this.#watches.set(name, ofChannel.set(number, watch));
    this.#postWatch(name, number, watch);
    // Later, so that no handler runs before its page has the result of this call.
    queueMicrotask(() => watch.connection(this.#state, this.#id));
    return {
      channel: name,
      stop: () => this.#stop(name, number),
      more: (count = 10) => {
        if (Number.isSafeInteger(count) && count > 0) return watch.more(count);
        throw new TypeError(`more(): the number is ${String(count)}, expected 1 or more`);
      },
      ask: () => watch.watching?.ask(),
    };
  }

  /** Calls the function with the data of each message of the application with this event's name. */
  on(event, onMessage) {
    eventName("on", event);
    listener("on", "listener", onMessage);
    this.#checkOpen("on");
    if (this.#listeners.size === 0) this.#post({ type: "listen" });
    const ofEvent = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, ofEvent);
    const entry = { onMessage };
    ofEvent.add(entry);
    return () => void ofEvent.delete(entry);
  }

  /** The answer of the application's handler of this event. */
  async call(event, data) {
    const name = eventName("call", event);
    const { data: answer } = await this.#request("rpc", name, jsonValue("call", data ?? null));
    return answer;
  }

  /** Sends a message to the application, which does not answer. */
  async send(data) {
    await this.#request("send", jsonValue("send", data));
  }

  /** Publishes to a channel, if the server permits it. */
  async publish(channel, data) {
    const name = channelName("publish", channel);
    await this.#request("publish", name, jsonValue("publish", data));
  }

  /** Calls the function with the state now, and with each later one. */
  onState(onChange) {
    listener("onState", "listener", onChange);
    const entry = { onChange };
    this.#stateListeners.add(entry);
    queueMicrotask(() => {
      if (this.#stateListeners.has(entry)) guarded(onChange, { ...this.#state });
    });
    return () => void this.#stateListeners.delete(entry);
  }

  /** Tries to connect now, also after a final close. */
  retryNow() {
    if (this.#link) this.#post({ type: "retry" });
  }

  /** Ends all watches, and the connection if nobody else uses it. */
  close() {
    if (!this.#link) return;
    const link = this.#link;
    this.#link = null;
    link.detach(this.#peer);
    this.#fail("the page closed it");
    const state = { state: "closed", reason: "closed by the page", retryAt: null, canRetry: false };
    for (const watch of this.#everyWatch()) {
      watch.connection(state, "");
      watch.stop();
    }
    this.#watches.clear();
    this.#listeners.clear();
    this.#setState(state);
  }

  // --- messages to and from the connection ---------------------------------------

  #checkOpen(method) {
    if (!this.#link) throw new Error(`${method}(): this connection is closed; connect() makes another`);
  }

  #post(message) {
    this.#link.post(this.#peer, message);
  }

  #postWatch(channel, number, watch) {
    const { last, joins } = watch.options;
    const since = watch.position;
    this.#post({ type: "watch", channel, watch: number, last, since, joins });
  }

  #request(method, ...parameters) {
    this.#checkOpen(method === "rpc" ? "call" : method);
    const request = ++this.#number;
    return new Promise((resolve, reject) => {
      this.#requests.set(request, { resolve, reject });
      this.#post({ type: "request", request, method, parameters });
    });
  }

  #receive(message) {
    const { type } = message;
    if (type === "state") this.#connection(message);
    else if (type === "answer") this.#answered(message);
    else if (type === "message") this.#message(message);
    else this.#feed(message);
  }

  #feed(message) {
    const ofChannel = this.#watches.get(message.channel);
    if (!ofChannel) return;
    if (message.watch !== undefined) ofChannel.get(message.watch)?.receive(message);
    else for (const watch of [...ofChannel.values()]) watch.receive(message);
  }

  #connection({ state, id }) {
    this.#id = id;
    for (const watch of this.#everyWatch()) watch.connection(state, id);
    this.#setState(state);
  }

  #setState(state) {
    this.#state = state;
    for (const { onChange } of [...this.#stateListeners]) guarded(onChange, { ...state });
  }

  #answered({ request, result, error }) {
    const waiting = this.#requests.get(request);
    this.#requests.delete(request);
    if (error) waiting?.reject(callError(error, this.#state.reason));
    else waiting?.resolve(result);
  }

  // Messages with an event are {event, data}; those of channels that the application joined have it beside.
  #message({ data, channel, event, offset, time }) {
    if (channel !== undefined) return this.#dispatch(event, data, { channel, offset, time });
    const isNamed = typeof data?.event === "string" && Object.keys(data).length === 2 && "data" in data;
    return isNamed ? this.#dispatch(data.event, data.data, {}) : this.#dispatch("message", data, {});
  }

  #dispatch(event, data, facts) {
    for (const { onMessage } of [...(this.#listeners.get(event) ?? [])]) guarded(onMessage, data, facts);
  }

  // The connection is another one: everything is asked for again, from the position of each watch.
  #renew() {
    this.#fail("the connection was lost before the answer");
    if (this.#listeners.size > 0) this.#post({ type: "listen" });
    for (const [channel, ofChannel] of this.#watches) {
      for (const [number, watch] of ofChannel) {
        watch.renew();
        this.#postWatch(channel, number, watch);
      }
    }
  }

  #fail(message) {
    const waiting = [...this.#requests.values()];
    this.#requests.clear();
    for (const { reject } of waiting) reject(callError({ code: 11, message }, message));
  }

  // --- watches ---------------------------------------

  #everyWatch() {
    return [...this.#watches.values()].flatMap((ofChannel) => [...ofChannel.values()]);
  }

  #makeWatch(channel, onEvent, options) {
    const { event, last, onGap, onReset, onState, onWatching, since } = options;
    const handlers = {
      onEvent: (found) => guarded(onEvent, found),
      onGap: (gap) => guarded(onGap, gap),
      onReset: onReset && (() => guarded(onReset)),
      onState: (state) => guarded(onState, { ...state }),
      onWatching: (...facts) => guarded(onWatching, ...facts),
    };
    const request = (...parameters) => this.#request(...parameters);
    const joins = Boolean(onWatching);
    return new Watch({ channel, event, last, since, joins }, handlers, request);
  }

  #stop(channel, number) {
    const ofChannel = this.#watches.get(channel);
    const watch = ofChannel?.get(number);
    if (!watch) return;
    watch.stop();
    ofChannel.delete(number);
    if (ofChannel.size === 0) this.#watches.delete(channel);
    this.#post({ type: "unwatch", channel, watch: number });
  }
}

// An error of one handler is reported, and costs no other handler its event.
function guarded(handler, ...parameters) {
  try {
    handler?.(...parameters);
  } catch (error) {
    reportError(error);
  }
}
