// The Centrifuge client's EventSource, whose request is a POST: proxies log URLs, and the query of a GET
// would have the data and the token of the connect command.

const MEDIA = "text/event-stream";

/**
 * For the option `eventsource` of the client. It is the part of EventSource that the client uses:
 * `onopen`, `onmessage`, `onerror` and `close()`. The body is the value of `cf_connect`, which leaves
 * the URL. It never connects again: the client does. An error is final and has a `message`.
 */
export class PostEventSource {
  onopen = null;
  onmessage = null;
  onerror = null;
  #aborting = new AbortController();

  constructor(url) {
    const target = new URL(url);
    const body = target.searchParams.get("cf_connect") ?? "";
    target.searchParams.delete("cf_connect");
    this.#read(target.href, body);
  }

  /** Requests the URL; a subclass may look at the answer. */
  fetch(url, options) {
    return fetch(url, options);
  }

  close() {
    this.#aborting.abort();
  }

  async #read(url, body) {
    const { signal } = this.#aborting;
    try {
      const answer = await this.fetch(url, {
        method: "POST",
        headers: { Accept: MEDIA, "Content-Type": "application/json" },
        body,
        mode: "cors",
        credentials: "same-origin",
        signal,
      });
      check(answer);
      this.#emit("onopen");
      const events = new Events();
      const decoder = new TextDecoder();
      const reader = answer.body.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) throw new Error("the response has ended");
        for (const data of events.read(decoder.decode(value, { stream: true }))) {
          this.#emit("onmessage", { data });
        }
      }
    } catch ({ message }) {
      this.#emit("onerror", { message });
      this.close();
    }
  }

  #emit(name, event) {
    if (this.#aborting.signal.aborted) return;
    try {
      this[name]?.(event);
    } catch (error) {
      setTimeout(() => {
        throw error; // as for an event handler: a report, and the next event comes
      });
    }
  }
}

function check({ ok, status, headers, body }) {
  if (!ok) throw new Error(`the server answered ${status}`);
  if (!(headers.get("content-type") ?? "").startsWith(MEDIA)) {
    throw new Error("the answer is no event stream");
  }
  if (!body) throw new Error("this browser cannot read an answer in parts");
}

/** Finds the data of whole events in a text that arrives in pieces; lines end with LF or CRLF. */
class Events {
  #line = "";
  #data = [];

  *read(text) {
    const lines = text.split("\n");
    lines[0] = this.#line + lines[0];
    this.#line = lines.pop();
    for (const line of lines) {
      const [, data] = /^data: ?(.*?)\r?$/s.exec(line) ?? [];
      if (data !== undefined) this.#data.push(data);
      else if (/^\r?$/.test(line) && this.#data.length > 0) yield this.#data.splice(0).join("\n");
    }
  }
}
