// The clients of a channel: requested once, updated by joins and leaves, and requested again about
// every 15 seconds.

const INTERVAL_MS = 15_000;
// Above this, only the number is requested and shown.
const NAMED = 20;

/**
 * The text for the other clients: `others` has the user of each connection, empty if unknown.
 */
export function watchersText(others) {
  const users = [...new Set(others.filter((user) => user))].sort();
  const nameless = others.filter((user) => !user).length;
  const rest = nameless === 0 ? [] : [`${nameless} other${nameless === 1 ? "" : "s"}`];
  const parts = ["you", ...users, ...rest];
  return parts.length === 1 ? "only you" : `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}`;
}

/**
 * Follows the clients of a channel; calls `onCount(count, names)` for each change. `count` includes
 * this connection, and is null if unknown; `names` is a text, empty for a crowd. `request(method)`
 * asks the server.
 */
export class Watching {
  constructor(request, onCount) {
    this.request = request;
    this.onCount = onCount;
    this.count = null;
    this.refused = false;
    this.subscribed = false;
    this.self = ""; // the id of our own connection
    this.others = null; // the user of each other connection by its id; null for a crowd
  }

  /** Starts again, after a subscribe. */
  begin() {
    this.subscribed = true;
    this.refused = false;
    clearTimeout(this.timer);
    this.ask();
    this.#askLater();
  }

  /** The count is unknown, as without a connection. */
  forget() {
    this.subscribed = false;
    clearTimeout(this.timer);
    this.#set(null);
  }

  /** A client joined or left: `type` is "join" or "leave". */
  changed(type, info) {
    this.#add(info, type === "join" ? 1 : -1);
  }

  /** Requests presence; after a refusal, not again on this connection. */
  async ask() {
    if (!this.subscribed || this.refused) return;
    try {
      const { numClients } = await this.request("presenceStats");
      this.others = numClients <= NAMED ? await this.#names() : null;
      if (this.subscribed) this.#set(this.others ? this.others.size + 1 : numClients);
    } catch (error) {
      // Codes below 100 are the client's own: a lost connection or a timeout.
      if (error?.code >= 100) this.refused = true;
    }
  }

  async #names() {
    const { clients } = await this.request("presence");
    const others = Object.values(clients).filter(({ client }) => client !== this.self);
    return new Map(others.map(({ client, user }) => [client, user]));
  }

  // Joins and leaves keep the count exact, but a crowded channel does not get them. Jittered, so that
  // pages that all connected after a restart do not send their requests at the same time for ever.
  #askLater() {
    const delay = INTERVAL_MS * (0.8 + 0.4 * Math.random());
    this.timer = setTimeout(() => {
      if (document.visibilityState === "visible") this.ask();
      this.#askLater();
    }, delay);
  }

  // Counted here and not requested: a join that n pages get must not cause n requests.
  #add(info, difference) {
    if (this.count === null || info.client === this.self) return;
    if (difference > 0) this.others?.set(info.client, info.user);
    else this.others?.delete(info.client);
    this.#set(this.others ? this.others.size + 1 : Math.max(0, this.count + difference));
  }

  #set(count) {
    this.count = count;
    const named = count !== null && count <= NAMED && this.others !== null;
    this.onCount(count, named ? watchersText([...this.others.values()]) : "");
  }
}
