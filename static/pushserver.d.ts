// Types of pushserver.js. The reference is docs/browser.md.

/** Connects to the server at `url`, by default the one that the module comes from. */
export function connect(url?: string | URL, options?: ConnectOptions): Server;
export function connect(options: ConnectOptions): Server;

export interface ConnectOptions {
  /** A value of JSON for the application's `connect` handler, never in a URL. */
  data?: unknown;
  /** An API key, for a page of an operator who types it. A page must not contain one. */
  key?: string;
  /** The name of this program for the server; "pushserver-js" by default. */
  name?: string;
  /**
   * Whether tabs of this browser use one connection: those with the same server, data, key and token. A
   * text, such as the name of the user, takes the place of the token in this comparison.
   */
  share?: boolean | string;
  /** A token of the connection. */
  token?: string;
  /** Gets a new token when the old one has expired. */
  getToken?: () => Promise<string>;
}

export type State = "connecting" | "live" | "reconnecting" | "closed";

export interface StateChange {
  state: State;
  /** Why the state is not "live", in words; may be empty. */
  reason: string;
  /** The next attempt, in milliseconds since 1970; null if none is planned. */
  retryAt: number | null;
  /** Whether `retryNow()` would end the wait for it. */
  canRetry: boolean;
}

export interface Event<Data = any> {
  data: Data;
  /** The name of the event; "message" by default. */
  event: string;
  /** When it was published, in milliseconds since 1970: `new Date(time)`. */
  time: number;
  /** The number of the event in its channel: 1, 2, 3... */
  offset: number;
  /** The client that published it; undefined for publications of programs and sources. */
  info?: {
    /** The id of its connection; empty for one by HTTP. */
    client: string;
    /** Its user; empty if unknown. */
    user: string;
    connInfo?: any;
    chanInfo?: any;
  };
  /** False for an event that the server had retained. */
  live: boolean;
  /** Whether the same event came before the last `onReset()`. */
  again: boolean;
}

export interface Gap {
  /** The number of missing events; null if unknown. */
  missed: number | null;
  reason: string;
}

/** A position in a channel: `Recent.position` of `pushserver.last()` in Python. */
export interface Position {
  epoch: string;
  offset: number;
}

export interface WatchOptions {
  /** The number of retained events to begin with; by default the channel's `initial`. */
  last?: number;
  /** Begin with the events after this position, in place of the `last` ones. */
  since?: Position;
  /** Only events with this name. */
  event?: string;
  /** The history is incomplete: events are missing before the next one. */
  onGap?: (gap: Gap) => void;
  /** Forget all events: the newest ones of the history follow, some of them again. */
  onReset?: () => void;
  /** The state of the watch, now and at each change. */
  onState?: (state: StateChange) => void;
  /** The number of clients that watch, null if unknown, and their users as a text. */
  onWatching?: (count: number | null, names: string) => void;
}

export interface Watch<Data = any> {
  readonly channel: string;
  /** Ends the watch. */
  stop(): void;
  /** The events before the oldest one so far, oldest first; empty if there are none. */
  more(count?: number): Promise<Event<Data>[]>;
  /** Asks for the number of clients that watch, for `onWatching`. */
  ask(): void;
}

/** Of a message in a channel that the application joined; empty for one to this client alone. */
export interface MessageFacts {
  channel?: string;
  offset?: number;
  time?: number;
}

/** The error of a request; `code` is that of the server, or below 100 if there was no answer. */
export interface RequestError extends Error {
  code: number;
}

export interface Server {
  readonly state: State;
  /** Why the state is not "live", in words; may be empty. */
  readonly reason: string;
  /** Calls `onEvent` with each event of the channel. */
  watch<Data = any>(
    channel: string,
    onEvent: (event: Event<Data>) => void,
    options?: WatchOptions,
  ): Watch<Data>;
  /** Calls the function with each message of the application; returns a function that ends this. */
  on<Data = any>(event: string, onMessage: (data: Data, facts: MessageFacts) => void): () => void;
  /** The answer of the application's handler; rejects with a RequestError. */
  call<Answer = any>(event: string, data?: unknown): Promise<Answer>;
  /** Sends a message to the application, which does not answer. */
  send(data: unknown): Promise<void>;
  /** Publishes to a channel, if the server permits it. */
  publish(channel: string, data: unknown): Promise<void>;
  /** Calls the function with the state, now and at each change; returns a function that ends this. */
  onState(onChange: (state: StateChange) => void): () => void;
  /** Tries to connect now, also after a final close. */
  retryNow(): void;
  /** Ends all watches, and the connection if nobody else uses it. */
  close(): void;
}

/** The part of the data to show: a path ("room.temp"), several, or a function of the data. */
export type Value = string | string[] | ((data: any) => unknown);

export interface PartOptions {
  /** The name of the part, for screen readers; the channel's by default. */
  label?: string;
  value?: Value;
  /** The text of a number, or options of Intl.NumberFormat. */
  format?: ((number: number | bigint) => string) | Intl.NumberFormatOptions;
  /** Only events with this name. */
  event?: string;
  /** The result of connect(); by default one for all parts of the page. */
  server?: Server;
}

export interface ListOptions extends PartOptions {
  /** The number of events; 300 for a graph and 10 for a list by default. */
  last?: number;
}

export interface NumberOptions extends PartOptions {
  /** The unit behind the number. */
  unit?: string;
}

export interface Part {
  /** Ends the part and empties its element. */
  stop(): void;
}

/** Lines of the numbers in a channel, in an element or the one of a selector. */
export function graph(element: Element | string, channel: string, options?: ListOptions): Part;
/** The newest events of a channel, newest first. */
export function list(element: Element | string, channel: string, options?: ListOptions): Part;
/** The newest number of a channel, and its time. */
export function number(element: Element | string, channel: string, options?: NumberOptions): Part;
