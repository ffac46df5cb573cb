// The dialog that shows a whole publication.

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
