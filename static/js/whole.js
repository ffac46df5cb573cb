// The dialog that shows a whole publication.

import { attachCopyButtons } from "./copying.js";
import { element } from "./dom.js";
import { fullTime } from "./times.js";
import { publicationText, wholeText } from "./values.js";

/** Opens `<dialog id="whole">` for a publication. */
export class Whole {
  constructor(dialog) {
    this.dialog = dialog;
    this.raw = dialog.querySelector("[data-raw]");
    this.raw.addEventListener("click", () => this.#toggle());
    this.publication = null;
    dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
    // A click on the backdrop has the dialog itself as its target.
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
  }

  open(publication) {
    const { event, offset, time } = publication;
    const title = `${event === "message" ? "Event" : event}${offset === undefined ? "" : ` #${offset}`}`;
    this.publication = publication;
    this.#show(title, fullTime(time), this.#text());
  }

  /** Opens the dialog with any other text. */
  show(title, aside, text) {
    this.publication = null;
    this.#show(title, aside, text);
  }

  #show(title, aside, text) {
    this.raw.hidden = this.publication === null;
    this.#part("title").textContent = title;
    this.#part("time").textContent = aside;
    this.#part("data").textContent = text;
    this.dialog.showModal();
  }

  #part(name) {
    return this.dialog.querySelector(`#whole-${name}`);
  }

  get #isRaw() {
    return this.raw.getAttribute("aria-pressed") === "true";
  }

  #text() {
    return this.#isRaw ? publicationText(this.publication) : wholeText(this.publication.data);
  }

  #toggle() {
    this.raw.setAttribute("aria-pressed", String(!this.#isRaw));
    this.#part("data").textContent = this.#text();
  }
}

/** The `<dialog>` for a part of a page of the user, with its button that copies. */
export function makeWhole() {
  const dialog = element("dialog", "whole");
  dialog.setAttribute("aria-labelledby", "whole-title");
  const [title, time, data] = ["h2", "span", "pre"].map((name) => element(name, ""));
  title.id = "whole-title";
  time.id = "whole-time";
  data.id = "whole-data";
  data.tabIndex = 0;
  const [close, copy, raw] = ["Close", "Copy", "Whole publication"].map((text) => {
    const button = element("button", "whole-button", text);
    button.type = "button";
    return button;
  });
  close.dataset.close = "";
  copy.dataset.copy = data.id;
  raw.dataset.raw = "";
  raw.setAttribute("aria-pressed", "false");
  const head = element("div", "whole-head");
  head.append(title, time, close);
  dialog.append(head, data, copy, " ", raw);
  attachCopyButtons(dialog);
  return dialog;
}
