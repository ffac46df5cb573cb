// The form that publishes an event, for readers who may.

import { setText } from "./dom.js";
import { askServer } from "./login.js";
import { clock } from "./times.js";

export class Publishing {
  /** `url` is that of the channel; `credential()` the reader's token or key. */
  constructor(byId, url, credential) {
    this.url = url;
    this.credential = credential;
    this.elements = {
      box: byId("publish"),
      form: byId("publish-form"),
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

  show(allowed) {
    this.elements.box.hidden = !allowed;
  }

  async #publish() {
    const { form, data, event, result } = this.elements;
    if (form.ariaBusy === "true") return;
    form.ariaBusy = "true";
    setText(result, "Publishing…");
    // The server takes the data as JSON if it is, and else as text, as it does for curl.
    const { ok, content } = await askServer(
      `${this.url}?${new URLSearchParams({ event: event.value })}`,
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
