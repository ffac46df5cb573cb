// Who watches a channel, and how many: asked once, kept by joins and leaves, asked again now and
// then.

const INTERVAL_MS = 15_000;
// Of more than these only the number is asked and shown.
const NAMED = 20;

/**
 * The words for who watches beside oneself: `others` has a user's name for each connection, empty
 * for somebody who has none.
 */
export function whoWatches(others) {
  const users = [...new Set(others.filter((user) => user))].sort();
  const nameless = others.filter((user) => !user).length;
  const rest = nameless === 0 ? [] : [`${nameless} other${nameless === 1 ? "" : "s"}`];
  const parts = ["you", ...users, ...rest];
  return parts.length === 1 ? "only you" : `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}`;
}

/**
 * Follows who watches; tells each change to `onCount`: how many, null while nobody can know, and
 * who, empty for a crowd.
 */
export class Watching {
  constructor(subscription, onCount) {
    this.subscription = subscription;
    this.onCount = onCount;
    this.count = null;
    this.refused = false;
    this.self = ""; // the id of our own connection
    this.others = null; // the user behind each other connection, by its id; null of a crowd
    subscription.on("join", ({ info }) => this.#add(info, 1));
    subscription.on("leave", ({ info }) => this.#add(info, -1));
  }

  /** Begins anew, after a subscribe. */
  begin() {
    this.refused = false;
    clearTimeout(this.timer);
    this.ask();
    this.#askLater();
  }

  /** Says that the count is not known, as without a connection. */
  forget() {
    this.#set(null);
  }

  /** Asks; a server that does not tell is asked no more on this connection. */
  async ask() {
    if (this.subscription.state !== "subscribed" || this.refused) return;
    try {
      const { numClients } = await this.subscription.presenceStats();
      this.others = numClients <= NAMED ? await this.#names() : null;
      this.#set(this.others ? this.others.size + 1 : numClients);
    } catch (error) {
      // Codes below 100 are the client's own: the connection went, or the answer took too long.
      if (error?.code >= 100) this.refused = true;
    }
  }

  async #names() {
    const { clients } = await this.subscription.presence();
    const others = Object.values(clients).filter(({ client }) => client !== this.self);
    return new Map(others.map(({ client, user }) => [client, user]));
  }

  // Joins and leaves keep the count exact, but a crowded channel is not told of them. Jittered: the
  // pages of a channel that all connected after a restart must not ask in step for ever.
  #askLater() {
    const delay = INTERVAL_MS * (0.8 + 0.4 * Math.random());
    this.timer = setTimeout(() => {
      if (document.visibilityState === "visible") this.ask();
      if (this.subscription.state === "subscribed") this.#askLater();
    }, delay);
  }

  // Counted here rather than asked again: a join told to n pages must not make n requests.
  #add(info, difference) {
    if (this.count === null || info.client === this.self) return;
    if (difference > 0) this.others?.set(info.client, info.user);
    else this.others?.delete(info.client);
    this.#set(this.others ? this.others.size + 1 : Math.max(0, this.count + difference));
  }

  #set(count) {
    this.count = count;
    const named = count !== null && count <= NAMED && this.others !== null;
    this.onCount(count, named ? whoWatches([...this.others.values()]) : "");
  }
}
