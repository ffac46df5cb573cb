// One part of a page of the user: its element, its connection to the server, and when it is drawn.

import { element, setText } from "./dom.js";
import { Drawing } from "./drawing.js";
import { Speaker } from "./speaker.js";
import { gapText, stateText } from "./state.js";
import { Tally } from "./tally.js";
import { GraphView, ListView, NumberView } from "./views.js";

const TAG = "pushserver-part";
const TICK_MS = 1000;
const NOTICE_MS = 60_000;
const VIEWS = { graph: GraphView, list: ListView, number: NumberView };
const STYLES = new URL("../", import.meta.url);

// Two servers may each have their own copy of this module in one page.
if (!customElements.get(TAG)) {
  customElements.define(
    TAG,
    class extends HTMLElement {
      // A page that moves an element removes it first.
      disconnectedCallback() {
        setTimeout(() => this.isConnected || this.onRemoved?.());
      }
    },
  );
}

/** Shows a channel in an element until `stop()`; calls `onRemoved` when it leaves the page. */
export class Part {
  constructor(kind, target, server, channel, options, onRemoved) {
    const { last, event } = options;
    // First, as a server that the page has closed throws. Its answers come later.
    this.watch = server.watch(channel, (publication) => this.receive(publication), {
      last,
      event,
      onGap: (gap) => this.gap(gap),
      onReset: () => this.reset(),
      onState: (state) => this.showState(state),
    });
    this.channel = channel;
    this.label = options.label;
    this.tally = new Tally();
    this.state = { state: "connecting", reason: "", retryAt: null };
    this.everLive = false;
    this.notice = "";
    this.host = document.createElement(TAG);
    this.host.onRemoved = onRemoved;
    this.root = element("div", `root ${kind}-part`);
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-label", options.label);
    this.note = element("p", "note");
    this.note.hidden = true;
    this.view = new VIEWS[kind](this, options);
    this.root.append(this.note);
    this.drawing = new Drawing(() => this.draw());
    this.#attach(target);
    voice.enter(this);
    this.timer = setInterval(() => this.tick(), TICK_MS);
    this.dark = window.matchMedia("(prefers-color-scheme: dark)");
    this.onScheme = () => this.#adaptScheme();
    this.dark.addEventListener("change", this.onScheme);
  }

  /** Ends the part and removes it from its element. */
  stop() {
    this.stopped = true;
    this.watch.stop();
    clearInterval(this.timer);
    clearTimeout(this.noticeTimer);
    this.dark.removeEventListener("change", this.onScheme);
    this.view.destroy();
    this.host.remove();
    voice.leave(this);
  }

  #attach(target) {
    const shadow = this.host.attachShadow({ mode: "open" });
    const styles = this.view.styles.map((path) => stylesheet(new URL(path, STYLES).href));
    // Without its styles, the part would be shown in another form for a moment.
    this.root.hidden = true;
    shadow.append(...styles.map(({ link }) => link), this.root);
    target.replaceChildren(this.host);
    Promise.all(styles.map(({ loaded }) => loaded)).then(() => {
      this.root.hidden = false;
      this.#adaptScheme();
      this.view.restyle();
      this.drawing.schedule();
    });
  }

  // --- events of the server ---------------------------------------

  /** Adds one event, to be drawn later. Cheap: a busy channel has a thousand a second. */
  receive(publication) {
    if (!publication.again) {
      this.tally.add(publication.time, publication.live ? Date.now() : undefined);
    }
    this.view.add(publication);
    this.drawing.schedule();
  }

  gap(gap) {
    this.view.gap();
    this.notice = gapText(gap);
    voice.say(this.notice);
    clearTimeout(this.noticeTimer);
    this.noticeTimer = setTimeout(() => {
      this.notice = "";
      this.showNote();
    }, NOTICE_MS);
    this.drawing.schedule();
  }

  reset() {
    this.view.clear();
    this.drawing.schedule();
  }

  showState(state) {
    const before = this.state;
    this.state = state;
    if (state.state === "live") this.everLive = true;
    if (state.state !== before.state || state.reason !== before.reason) {
      voice.say(stateText({ ...state, retryAt: null }, 0));
    }
    this.showNote();
    this.drawing.schedule();
  }

  /** The reason why nothing new is shown, as a text; "" while the connection is there. */
  get away() {
    const { state } = this.state;
    return state === "live" || state === "connecting" ? "" : stateText(this.state, Date.now());
  }

  // --- drawing ---------------------------------------

  draw() {
    if (this.stopped) return;
    this.view.draw();
    this.showNote();
    const spoken = this.view.spoken();
    if (!spoken || spoken === this.spoken) return;
    this.spoken = spoken;
    voice.value(this, spoken);
  }

  tick() {
    this.#adaptScheme();
    this.showNote();
    this.view.tick();
  }

  showNote() {
    const text = this.view.showsState ? this.notice : this.away || this.notice;
    this.note.hidden = text === "";
    setText(this.note, text);
  }

  // The page decides about its colours, in whatever way; light text means a dark page.
  #adaptScheme() {
    const scheme = isLight(getComputedStyle(this.host).color) ? "dark" : "light";
    if (this.root.dataset.bsTheme === scheme) return;
    this.root.dataset.bsTheme = scheme;
    this.view.restyle();
  }
}

function stylesheet(href) {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = href;
  const loaded = new Promise((resolve) => {
    link.onload = resolve;
    link.onerror = resolve;
  });
  return { link, loaded };
}

/** Whether a computed colour is a light one. */
export function isLight(colour) {
  const numbers = colour.replace(/^.*?\(([a-z]\S* )?/, "").match(/-?[\d.]+(e-?\d+)?/g) ?? [];
  const [first, second, third] = numbers.map(Number);
  if (/^(rgb|color)/.test(colour)) {
    const most = colour.startsWith("rgb") ? 255 : 1;
    return 0.2126 * first + 0.7152 * second + 0.0722 * third > most / 2;
  }
  // oklab(), oklch(): the lightness is 1 at most; lab(), lch(): 100.
  return first > (colour.startsWith("ok") ? 0.5 : 50);
}

// One voice for all parts of the page: several parts have the same connection, and values of all of them
// are announced no more often than those of one.
const voice = {
  parts: new Set(),

  enter(part) {
    this.parts.add(part);
    if (this.host) return;
    this.host = document.createElement(TAG);
    const words = element("p", "spoken");
    words.setAttribute("role", "status");
    Object.assign(this.host.style, {
      position: "absolute",
      width: "1px",
      height: "1px",
      overflow: "hidden",
      clipPath: "inset(50%)",
    });
    this.host.attachShadow({ mode: "open" }).append(words);
    document.body.append(this.host);
    this.speaker = new Speaker(words);
  },

  leave(part) {
    this.parts.delete(part);
    if (this.parts.size > 0) return;
    this.host.remove();
    this.host = null;
  },

  say(words) {
    this.speaker.say(words);
  },

  value(part, words) {
    this.speaker.value(`${part.label}: ${words}`, performance.now());
  },
};
