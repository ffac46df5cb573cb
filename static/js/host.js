// One connection to the server, with the official client, which reconnects and recovers. Several readers
// ("peers": the servers that pushserver.js makes) use it by messages, which may come from another tab.

import { allowLongCalls, keepIntegers, keepNames, keepTimes, listenToResult, networkEvents } from "./client.js";
import { Feed } from "./feed.js";
import { PostEventSource } from "./fetch_event_source.js";
import { answerReason, closeReason, failureReason, originReason, reconnectReason } from "./reasons.js";

const MAX_DELAY_MS = 5000; // the client's default is 20 s, too long on a page that somebody looks at
const PROBE_MS = 5000;
const CALL_MS = 60_000; // the server's own limit is handler_seconds (30)
const PROTOCOL_PATHS = [
  ["websocket", "connection/websocket"],
  ["http_stream", "connection/http_stream"],
  ["sse", "connection/sse"],
];

/** The client's list of transports, in order of preference, below the root URL of the server. */
function transportsOf(root) {
  return PROTOCOL_PATHS.map(([transport, path]) => {
    const url = new URL(path, root);
    if (transport === "websocket") url.protocol = url.protocol.replace("http", "ws");
    return { transport, endpoint: url.href };
  });
}

/**
 * The connection. `options`: `root`, the URL of the server; the `name`, `data`, `token` and
 * `getToken` of the client; the API `key`; `again` if it takes the place of a connection of another tab.
 *
 * Messages of a peer: `watch`, `unwatch`, `request`, `listen`, `retry`. Messages to it: `state` of the
 * connection, those of a feed (see feed.js), `answer` to a request, and `message` of the application.
 */
export class Host {
  constructor(options) {
    this.options = options;
    this.peers = new Map();
    this.feeds = new Map(); // by channel
    const state = options.again ? "reconnecting" : "connecting";
    this.state = { state, reason: "", retryAt: null, canRetry: false };
    this.id = ""; // of the connection
    this.answered = ""; // the newest refusal of an HTTP transport, as a text
    this.told = ""; // the server's reason for the close of the newest WebSocket
    this.network = networkEvents();
    this.webSocketOnly = false;
    this.client = this.#makeClient();
    this.#listen();
    keepNames(this.client);
    keepTimes(this.client);
    keepIntegers(this.client);
    allowLongCalls(this.client, CALL_MS);
    this.client.connect();
  }

  attach(id, post) {
    this.peers.set(id, { id, post, listens: false });
    post({ type: "state", state: this.state, id: this.id });
  }

  detach(id) {
    this.peers.delete(id);
    for (const feed of [...this.feeds.values()]) feed.dropPeer(id);
  }

  receive(id, message) {
    const peer = this.peers.get(id);
    if (!peer) return;
    if (message.type === "watch") this.#watch(peer, message);
    else if (message.type === "unwatch") this.feeds.get(message.channel)?.drop(id, message.watch);
    else if (message.type === "request") this.#request(peer, message);
    else if (message.type === "listen") peer.listens = true;
    else if (message.type === "retry") this.retryNow();
  }

  /** Ends the wait for the next attempt, and connects again after a final close. */
  retryNow() {
    for (const feed of this.feeds.values()) feed.open();
    if (this.client.state === "disconnected") {
      this.#report("connecting", "");
      this.client.connect();
      return;
    }
    if (this.client.state !== "connecting") return;
    // The client has no method for this, but connects at once when the network comes back.
    this.network.dispatchEvent(new Event("online"));
    if (this.client.state === "connecting") this.#report("reconnecting", this.state.reason);
  }

  close() {
    this.closed = true;
    this.client.disconnect();
    this.network.stop();
  }

  #makeClient() {
    const { root, name, data, token, getToken, key } = this.options;
    const headers = key === undefined ? undefined : { "x-api-key": key };
    const all = Object.entries({ data, token, getToken, headers });
    const given = all.filter(([, value]) => value !== undefined);
    return new globalThis.Centrifuge(transportsOf(root), {
      name,
      ...Object.fromEntries(given),
      emulationEndpoint: new URL("emulation", root).href,
      maxReconnectDelay: MAX_DELAY_MS,
      networkEventTarget: this.network,
      fetch: (url, options) => this.#fetch(url, options),
      websocket: this.#tellingSocket(),
      ...(given.length > 0 && { eventsource: this.#postingSource() }),
    });
  }

  // The client does not pass the reason of a close that comes before the answer to its connect command.
  #tellingSocket() {
    const begin = () => (this.told = "");
    const tell = ({ code, reason }) => {
      if (code >= 3000) this.told = reason;
    };
    if (typeof WebSocket !== "function") return null; // the client takes the next transport
    return class extends WebSocket {
      constructor(...parameters) {
        super(...parameters);
        begin();
        this.addEventListener("close", tell);
      }
    };
  }

  // The browser's EventSource would have the data and the token in its URL.
  #postingSource() {
    const ask = (url, options) => this.#fetch(url, options);
    return class extends PostEventSource {
      fetch(url, options) {
        return ask(url, options);
      }
    };
  }

  #watch(peer, message) {
    const { channel } = message;
    let feed = this.feeds.get(channel);
    if (!feed) {
      feed = new Feed(this.client, channel, () => this.feeds.delete(channel));
      this.feeds.set(channel, feed);
    }
    feed.add(peer, message);
  }

  async #request(peer, { request, method, parameters }) {
    try {
      const result = await this.client[method](...parameters);
      peer.post({ type: "answer", request, result });
    } catch (error) {
      const { code = 0, message = String(error) } = error ?? {};
      peer.post({ type: "answer", request, error: { code, message } });
    }
  }

  // --- events of the client ---------------------------------------

  #listen() {
    const { client } = this;
    client.on("connecting", (context) => {
      if (context.code === 0) return; // our own call of connect()
      this.#report("reconnecting", reconnectReason(context, navigator.onLine, this.answered));
    });
    client.on("connected", ({ client: id, transport }) => {
      this.id = id;
      this.answered = "";
      this.wasConnected = true;
      this.webSocketOnly = transport === "websocket"; // the client keeps a transport that worked
      this.#report("live", "");
    });
    // A failed attempt of a client that is connecting causes only an error event.
    client.on("error", (context) => {
      this.failure = failureReason(context, navigator.onLine, this.told || this.answered);
      if (context.transport === "websocket" && this.webSocketOnly && !this.told) this.#ask(context);
    });
    client.on("disconnected", (context) => {
      if (!this.closed) this.#report("closed", closeReason(context, !this.options.getToken));
    });
    client.on("message", ({ data }) => this.#tell({ type: "message", data }));
    client.on("publication", ({ channel, data, tags, offset, time }) =>
      this.#tell({ type: "message", channel, data, event: tags?.event ?? "message", offset, time }),
    );
    // The client does not publish its random delay. If a later version renames this method, the page
    // still says that it reconnects, without the seconds.
    listenToResult(client, "_getReconnectDelay", (delay) => {
      this.#report("reconnecting", this.failure || this.state.reason, Date.now() + delay);
    });
  }

  #tell(message) {
    for (const peer of this.peers.values()) if (peer.listens) peer.post(message);
  }

  #report(state, reason, retryAt = null) {
    this.failure = "";
    const canRetry = retryAt !== null && this.client.state === "connecting";
    this.state = { state, reason, retryAt, canRetry };
    for (const peer of this.peers.values()) {
      peer.post({ type: "state", state: this.state, id: this.id });
    }
  }

  // --- the reason of a failed attempt ---------------------------------------

  // The client does not pass the server's answer, nor does a browser for a WebSocket.
  async #fetch(url, options) {
    this.answered = "";
    let response;
    try {
      response = await fetch(url, options);
    } catch (error) {
      this.answered = await this.#originReason();
      throw error;
    }
    if (!response.ok) this.answered = answerReason(response.status, await textOf(response));
    return response;
  }

  // A page cannot read the refusal of its origin, but the files of the server are for all origins.
  async #originReason() {
    const { root } = this.options;
    if (this.wasConnected || new URL(root).origin === location.origin) return "";
    try {
      const signal = AbortSignal.timeout(PROBE_MS);
      const url = new URL("static/pushserver.js", root);
      const { ok } = await fetch(url, { method: "HEAD", cache: "no-store", signal });
      return ok ? originReason(location.origin) : "";
    } catch {
      return "";
    }
  }

  // Requests the URL of the WebSocket for the answer, if no HTTP transport gets it.
  async #ask(context) {
    const endpoint = new URL("connection/websocket", this.options.root);
    try {
      const { status } = await this.#fetch(endpoint);
      // The answer to a request without Upgrade; that a proxy passes it on is known after a connect.
      if (status === 426 && this.wasConnected) this.answered = "";
    } catch {
      // no answer
    }
    if (this.client.state !== "connecting") return;
    const reason = failureReason(context, navigator.onLine, this.answered);
    this.#report("reconnecting", reason, this.state.retryAt);
  }
}

async function textOf(response) {
  try {
    return await response.text();
  } catch {
    return "";
  }
}
