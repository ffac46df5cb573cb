// The newest publications that the page holds, for its list, and the search in them. No DOM.

import { compactText } from "./values.js";

const MOST_CHARACTERS = 4_000_000; // of the data of all, as JSON

/** Holds at most `size` publications, and fewer if they are long; `all` has the newest last. */
export class Held {
  constructor(size) {
    this.size = size;
    this.texts = new WeakMap();
    this.clear();
  }

  clear() {
    this.all = [];
    this.characters = 0;
  }

  get newest() {
    return this.all[this.all.length - 1];
  }

  /** Adds the newest one. */
  add(publication) {
    publication.length = compactText(publication.data).length;
    this.all.push(publication);
    this.characters += publication.length;
    // In steps, as each removal moves all others.
    if (this.all.length > this.size * 1.5 || this.characters > MOST_CHARACTERS) this.#trim();
  }

  #trim() {
    let first = Math.max(0, this.all.length - this.size);
    let characters = this.all.slice(first).reduce((sum, { length }) => sum + length, 0);
    while (characters > MOST_CHARACTERS / 2 && first < this.all.length - 1)
      characters -= this.all[first++].length;
    this.all = this.all.slice(first);
    this.characters = characters;
  }

  /**
   * The newest `most` of these publications whose event or data have all words of the text, with
   * capital and small letters alike; `found` is the number of all of them.
   */
  search(publications, text, most) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length === 0) return { shown: publications.slice(-most), found: publications.length };
    const matches = publications.filter((one) => {
      const own = this.#text(one);
      return words.every((word) => own.includes(word));
    });
    return { shown: matches.slice(-most), found: matches.length };
  }

  #text(publication) {
    let text = this.texts.get(publication);
    if (text === undefined) {
      text = `${publication.event} ${compactText(publication.data)}`.toLowerCase();
      this.texts.set(publication, text);
    }
    return text;
  }
}
