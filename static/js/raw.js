// The newest publications as JSON, a line for each.

import { element } from "./dom.js";
import { Keyed } from "./keyed.js";
import { Opening, originText, timeButton } from "./opening.js";
import { compactText } from "./values.js";

const MOST_CHARACTERS = 1000; // of a line; all of it is in the dialog

/** Shows publications in an `<ol>`; `several`: rows name their channels. */
export class Raw {
  constructor(list, openWhole, several = false) {
    this.several = several;
    this.pick = (data) => data;
    this.keyed = new Keyed(list, (publication) => this.#makeRow(publication));
    this.opening = new Opening(this.keyed, openWhole);
  }

  /** Shows these publications, newest last. */
  render(publications) {
    const { fresh, gone } = this.keyed.update(publications);
    if (fresh.length === 0 && gone === 0) return;
    this.keyed.rows.forEach(({ item }, index) => item.classList.toggle("newest", index === 0));
    this.opening.update();
  }

  /** Makes all rows anew, with this part of the data. */
  restart(pick) {
    this.pick = pick;
    this.keyed.clear();
    this.opening.update();
  }

  #makeRow(publication) {
    const { data, offset } = publication;
    const item = element("li", "raw-row");
    item.dataset.offset = String(offset ?? "");
    const name = originText(publication, this.several);
    const picked = this.pick(data);
    const text = typeof picked === "string" ? JSON.stringify(picked) : compactText(picked);
    const isCut = text.length > MOST_CHARACTERS;
    item.append(timeButton(publication, Date.now()), " ");
    if (name) item.append(element("span", "row-event", name), " ");
    item.append(element("code", "raw-data", isCut ? `${text.slice(0, MOST_CHARACTERS)}…` : text));
    return { publication, item };
  }
}
