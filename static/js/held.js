// The newest publications that the page holds, and the search in them. No DOM.

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

  /** Removes those of this channel. */
  remove(channel) {
    this.all = this.all.filter((one) => one.channel !== channel);
    this.characters = this.all.reduce((sum, { length }) => sum + length, 0);
  }

  get newest() {
    return this.all[this.all.length - 1];
  }

  /**
   * Adds one, and returns whether it is the newest. Those of one channel keep their order; those of several
   * are in the order of their times, as the histories of channels arrive one after the other.
   */
  add(publication) {
    publication.length = compactText(publication.data).length;
    const place = this.#place(publication);
    const isNewest = place === this.all.length;
    if (isNewest) this.all.push(publication);
    else this.all.splice(place, 0, publication);
    this.characters += publication.length;
    // In steps, as each removal moves all others.
    if (this.all.length > this.size * 1.5 || this.characters > MOST_CHARACTERS) this.#trim();
    return isNewest;
  }

  #place({ channel, time }) {
    let place = this.all.length;
    while (place > 0 && this.all[place - 1].channel !== channel && this.all[place - 1].time > time) place--;
    return place;
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
   * The newest `most` of these publications whose event, channel or data have all words of `filter`, with
   * capital and small letters alike; which are no older than `seconds` before the newest one; and which
   * `has(data)` accepts. `found` is the number of all of them.
   */
  search(publications, { filter = "", seconds = 0, has = null }, most) {
    const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
    const isAll = words.length === 0 && seconds === 0 && has === null;
    if (isAll) return { shown: publications.slice(-most), found: publications.length };
    const since = seconds > 0 ? (publications.at(-1)?.time ?? 0) - seconds * 1000 : -Infinity;
    const matches = publications.filter((one) => {
      if (one.time < since || (has !== null && !has(one.data))) return false;
      return words.length === 0 || this.#matches(one, words);
    });
    return { shown: matches.slice(-most), found: matches.length };
  }

  #matches(publication, words) {
    const text = this.#text(publication);
    return words.every((word) => text.includes(word));
  }

  #text(publication) {
    let text = this.texts.get(publication);
    if (text === undefined) {
      const { channel = "", event, data } = publication;
      text = `${channel} ${event} ${compactText(data)}`.toLowerCase();
      this.texts.set(publication, text);
    }
    return text;
  }
}
