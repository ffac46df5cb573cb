// Announcements for a screen reader: changes of the connection, and the newest value now and then.

const CONNECTION_MS = 1000;
const VALUE_MS = 10_000;

/** Announces through a polite live region, at most once a second; values at most every ten. */
export class Speaker {
  constructor(element) {
    this.element = element;
    this.spokenAt = -Infinity;
    this.valueAt = -Infinity;
  }

  /**
   * Announces the text soon; a later call within the second replaces it (a reconnect that takes 0.2 s
   * is announced once).
   */
  say(words) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#speak(words), CONNECTION_MS);
  }

  /** Announces the newest value, unless another announcement is recent or pending. */
  value(words, now) {
    if (now - Math.max(this.valueAt, this.spokenAt) < VALUE_MS) return;
    this.valueAt = now;
    this.element.textContent = words;
  }

  #speak(words) {
    this.spokenAt = performance.now();
    this.element.textContent = words;
  }
}
