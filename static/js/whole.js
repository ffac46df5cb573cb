// The dialog that shows a whole publication.

import { attachCopyButtons } from "./copying.js";
import { element } from "./dom.js";
import { fullTime } from "./times.js";
import { wholeText } from "./values.js";

/** Opens `<dialog id="whole">` for a publication. */
export class Whole {
  constructor(dialog) {
    this.dialog = dialog;
    dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
    // A click on the backdrop has the dialog itself as its target.
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
  }

  open({ data, event, offset, time }) {
    const title = `${event === "message" ? "Event" : event}${offset === undefined ? "" : ` #${offset}`}`;
    this.show(title, fullTime(time), wholeText(data));
  }

  /** Opens the dialog with any other text. */
  show(title, aside, text) {
    const part = (name) => this.dialog.querySelector(`#whole-${name}`);
    part("title").textContent = title;
    part("time").textContent = aside;
    part("data").textContent = text;
    this.dialog.showModal();
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
  const [close, copy] = ["Close", "Copy"].map((text) => {
    const button = element("button", "whole-button", text);
    button.type = "button";
    return button;
  });
  close.dataset.close = "";
  copy.dataset.copy = data.id;
  const head = element("div", "whole-head");
  head.append(title, time, close);
  dialog.append(head, data, copy);
  attachCopyButtons(dialog);
  return dialog;
}
