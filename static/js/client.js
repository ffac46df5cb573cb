// Changes of the official client, where it has no option. If a later version renames these methods, the
// page works without the change.

import { isPlainObject, parseExactly } from "./values.js";

/** The browser's network events, on a target of our own, so that retryNow() can send one too. */
export function networkEvents() {
  const target = new EventTarget();
  const listening = new AbortController();
  for (const name of ["online", "offline"]) {
    const { signal } = listening;
    window.addEventListener(name, () => target.dispatchEvent(new Event(name)), { signal });
  }
  target.stop = () => listening.abort();
  return target;
}

/** Passes `time` to the application, which centrifuge-js 5.8.0 does not. */
export function keepTimes(client) {
  const original = client._getPublicationContext;
  if (typeof original !== "function") return;
  client._getPublicationContext = function (channel, publication) {
    const context = original.call(this, channel, publication);
    if (typeof publication.time === "number") context.time = publication.time;
    return context;
  };
}

/**
 * Lets channels have the names of members of every object, as "constructor": centrifuge-js 5.8.0 looks names up
 * in plain objects. Only "hasOwnProperty", which it calls, remains.
 */
export function keepNames(client) {
  const { hasOwnProperty } = Object.prototype;
  for (const held of ["_subs", "_serverSubs"]) {
    if (!isPlainObject(client[held])) continue;
    client[held] = Object.create(Object.create(null, { hasOwnProperty: { value: hasOwnProperty } }));
  }
}

/** Keeps integers above 2^53, which centrifuge-js 5.8.0 rounds, as it parses with JSON.parse. */
export function keepIntegers(client) {
  const codec = client._codec;
  if (typeof codec?.decodeReplies !== "function") return;
  codec.decodeReplies = (text) =>
    text
      .split("\n")
      .filter((line) => line.trim() !== "")
      .map(parseExactly);
}

/** Calls the listener with each result of the method. */
export function listenToResult(object, method, listener) {
  const original = object[method];
  if (typeof original !== "function") return;
  object[method] = function (...values) {
    const result = original.apply(this, values);
    listener(result);
    return result;
  };
}

/** Lets calls of the application take this long; other commands have the client's `timeout`. */
export function allowLongCalls(client, milliseconds) {
  const original = client._callPromise;
  if (typeof original !== "function") return;
  client._callPromise = function (command, ...rest) {
    const config = this._config;
    const { timeout } = config;
    if (command.rpc) config.timeout = milliseconds; // read once, in this call
    try {
      return original.call(this, command, ...rest);
    } finally {
      config.timeout = timeout;
    }
  };
}
