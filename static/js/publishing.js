// The form that publishes an event, for readers who may.

import { setText } from "./dom.js";
import { askServer } from "./login.js";
import { clock } from "./times.js";

export class Publishing {
  /** `url(channel)` is that of a channel; `credential()` the reader's token or key. */
  constructor(byId, url, credential) {
    this.url = url;
    this.credential = credential;
    this.elements = {
      box: byId("publish"),
      form: byId("publish-form"),
      channel: byId("publish-channel"),
      data: byId("publish-data"),
      event: byId("publish-event"),
      result: byId("publish-result"),
    };
    const { form, data } = this.elements;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#publish();
    });
    data.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
  }

  /** Shows the form for these channels; none: hides it. */
  show(channels) {
    const { box, channel } = this.elements;
    box.hidden = channels.length === 0;
    const chosen = channel.value;
    channel.replaceChildren(...channels.map((name) => new Option(name, name)));
    if (channels.includes(chosen)) channel.value = chosen;
  }

  async #publish() {
    const { form, channel, data, event, result } = this.elements;
    if (form.ariaBusy === "true") return;
    form.ariaBusy = "true";
    setText(result, "Publishing…");
    // The server takes the data as JSON if it is, and else as text, as it does for curl.
    const { ok, content } = await askServer(
      `${this.url(channel.value)}?${new URLSearchParams({ event: event.value })}`,
      this.credential(),
      { method: "POST", headers: { "Content-Type": "text/plain" }, body: data.value },
    );
    form.ariaBusy = "false";
    const now = Date.now();
    const words = ok ? `published, event ${content.offset}` : content.error.message;
    setText(result, `${clock(now, now)}: ${words}`);
    if (ok) data.select();
  }
}
