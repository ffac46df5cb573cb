// The connections of this page: one for each server and identity.

import { Host } from "./host.js";

const links = new Map();
const functions = new WeakMap(); // a number for each function that gets tokens
let made = 0;

/** The connection with these options, which the page may have already. */
export function linkTo(options) {
  const { getToken } = options;
  if (getToken && !functions.has(getToken)) functions.set(getToken, ++made);
  const key = JSON.stringify([options.root, options.data, options.token, functions.get(getToken)]);
  if (!links.has(key)) links.set(key, new OwnLink(options, () => links.delete(key)));
  return links.get(key);
}

/** A connection of this page alone. It exists while it has peers. */
class OwnLink {
  constructor(options, onEmpty) {
    this.options = options;
    this.onEmpty = onEmpty;
    this.ids = new Map(); // of peers
    this.host = null;
  }

  attach(peer) {
    const id = String(++made);
    this.ids.set(peer, id);
    // Later, so that a page has the result of connect() first.
    queueMicrotask(() => {
      if (!this.ids.has(peer)) return;
      this.host ??= new Host(this.options);
      this.host.attach(id, (message) => peer.receive(message));
    });
  }

  post(peer, message) {
    queueMicrotask(() => this.host?.receive(this.ids.get(peer), message));
  }

  detach(peer) {
    const id = this.ids.get(peer);
    this.ids.delete(peer);
    this.host?.detach(id);
    if (this.ids.size > 0) return;
    this.host?.close();
    this.onEmpty();
  }
}
