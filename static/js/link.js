// The connections of this page: one for each server and identity.

import { Host } from "./host.js";
import { canShare, SharedLink } from "./sharing.js";

const links = new Map();
const functions = new WeakMap(); // a number for each function that gets tokens
let made = 0;

/** The connection with these options, which the page may have already. */
export function linkTo({ share = true, ...options }) {
  const { root, data, token, getToken, key: apiKey } = options;
  if (getToken && !functions.has(getToken)) functions.set(getToken, ++made);
  const key = JSON.stringify([root, share, data, token, functions.get(getToken), apiKey]);
  const found = links.get(key);
  if (found) return found;
  const onEmpty = () => links.delete(key);
  const identity = identityOf(share, options);
  const link = identity
    ? new SharedLink(options, identity, onEmpty)
    : new OwnLink(options, onEmpty);
  links.set(key, link);
  return link;
}

/** The values by which a tab knows that another one is of the same user; null if it cannot. */
function identityOf(share, { root, data, token, getToken, key }) {
  if (!canShare || share === false) return null;
  // A name stands for the token, which may be new on each page.
  if (typeof share === "string") return [root, share, data, key];
  // A function cannot be compared with that of another tab.
  return getToken && token === undefined ? null : [root, null, data, token, key];
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
