// How many watch a channel: asked once, kept by joins and leaves, asked again now and then.

const INTERVAL_MS = 15_000;

/** Counts who watches; tells each new count to `onCount`, null while nobody can know. */
export class Watching {
  constructor(subscription, onCount) {
    this.subscription = subscription;
    this.onCount = onCount;
    this.count = null;
    this.refused = false;
    this.self = ""; // the id of our own connection
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
      this.#set(numClients);
    } catch (error) {
      // Codes below 100 are the client's own: the connection went, or the answer took too long.
      if (error?.code >= 100) this.refused = true;
    }
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
    this.#set(Math.max(0, this.count + difference));
  }

  #set(count) {
    this.count = count;
    this.onCount(count);
  }
}
