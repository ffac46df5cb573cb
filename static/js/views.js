// The views of the parts: what each draws from the events of a channel.

import { element, setText } from "./dom.js";
import { Graph } from "./graph.js";
import { List } from "./list.js";
import { formatter, picker } from "./picking.js";
import { Points } from "./points.js";
import { ago, clock, fullTime } from "./times.js";
import { loadPlot } from "./uplot.js";
import { decimalsOf, numericLeaves, spokenText } from "./values.js";
import { makeWhole, Whole } from "./whole.js";

const MAX_LINES = 8;
const FAST_PER_SECOND = 3; // from here on rows are not animated
const PARTS = "parts.css";
const UPLOT = "vendor/uplot-1.6.32/uPlot.min.css";
const NOTHING = "No events yet.";

/** Lines of the numbers in the newest `last` events. */
export class GraphView {
  styles = [UPLOT, PARTS];

  constructor(part, { value, format, last }) {
    this.part = part;
    this.value = value;
    // A single line has its path as its name.
    this.pick = picker(typeof value === "string" ? [value] : value);
    this.points = new Points(last, MAX_LINES);
    this.seen = false;
    this.noGraph = "";
    const elements = {
      legend: element("div", "legend"),
      more: element("span", "legend-more", "and more, not drawn"),
      at: element("span", "legend-at"),
      graph: element("div", "graph"),
    };
    elements.legend.setAttribute("role", "group");
    elements.legend.setAttribute("aria-label", "Lines of the graph");
    elements.more.hidden = true;
    elements.legend.append(elements.more);
    elements.graph.setAttribute("role", "img");
    elements.graph.setAttribute("aria-label", "Graph: no numbers to draw");
    this.nothing = element("p", "graph-nothing");
    const box = element("div", "graph-box");
    box.append(elements.at, elements.graph, this.nothing);
    part.root.append(elements.legend, box);
    this.graph = new Graph(elements, this.points, format && formatter(format));
    this.#load();
  }

  async #load() {
    try {
      const uPlot = await loadPlot();
      if (!this.part.stopped) this.graph.use(uPlot);
    } catch {
      this.noGraph = "No graph: uPlot did not load.";
    }
    this.part.drawing.schedule();
  }

  add({ data, time }) {
    this.seen = true;
    this.points.add(time, numericLeaves(this.pick(data)));
  }

  gap() {
    this.points.interrupt();
  }

  clear() {
    this.points.clear();
    this.seen = false;
  }

  draw() {
    this.graph.render();
    this.graph.describe();
    this.tick();
  }

  /** Whether the state of the connection is shown in place of the data. */
  get showsState() {
    return this.points.length === 0;
  }

  tick() {
    setText(this.nothing, this.noGraph || this.#reason());
  }

  #reason() {
    if (this.points.length > 0) return "";
    if (this.part.away) return this.part.away;
    if (!this.part.everLive) return "";
    if (!this.seen) return "The graph begins with the first number.";
    const { value } = this;
    const paths = typeof value === "string" ? [value] : Array.isArray(value) ? value : [];
    return `No numbers in these events${paths.length > 0 ? ` at ${paths.join(", ")}` : ""}.`;
  }

  spoken() {
    const { points } = this;
    return points.names.map((name) => `${name} ${this.graph.latest(name)}`).join(", ");
  }

  restyle() {
    this.graph.restyle();
  }

  destroy() {
    this.graph.destroy();
  }
}

/** The newest `last` events, newest first. */
export class ListView {
  styles = [PARTS];

  constructor(part, { value, format, label, last }) {
    this.part = part;
    this.pick = picker(value);
    this.size = last;
    this.recent = []; // newest last
    this.list = element("ol", "list");
    this.list.setAttribute("aria-label", `${label}, newest first`);
    this.nothing = element("p", "nothing");
    const box = element("div", "list-box");
    box.append(this.list, this.nothing);
    const dialog = makeWhole();
    const whole = new Whole(dialog);
    part.root.append(box, dialog);
    this.rows = new List(this.list, last, (publication) => whole.open({ channel: part.channel, ...publication }), {
      pick: this.pick,
      format: formatter(format),
    });
    this.rows.render([]);
  }

  add(publication) {
    if (this.pick(publication.data) === undefined) return;
    this.recent.push(publication);
    if (this.recent.length > this.size * 2) this.recent.splice(0, this.size);
  }

  gap() {}

  clear() {
    this.recent = [];
  }

  draw() {
    this.list.classList.toggle("fast", (this.part.tally.rate ?? 0) > FAST_PER_SECOND);
    this.rows.render(this.recent);
    this.tick();
  }

  get showsState() {
    return this.recent.length === 0;
  }

  tick() {
    const { away, everLive } = this.part;
    this.list.classList.toggle("bare", this.showsState);
    setText(this.nothing, this.showsState ? away || (everLive ? NOTHING : "") : "");
  }

  spoken() {
    const newest = this.recent.at(-1);
    return newest ? spokenText(this.pick(newest.data)) : "";
  }

  restyle() {}

  destroy() {
    this.rows.destroy();
  }
}

/** The newest number, its time, and whether it is out of date. */
export class NumberView {
  styles = [PARTS];
  showsState = true;

  constructor(part, { value, format, label, unit }) {
    this.part = part;
    this.pick = picker(value);
    this.format = formatter(format);
    this.clear();
    this.value = element("span", "figure-number", "–");
    this.when = element("p", "figure-when");
    this.time = element("time", "");
    this.why = element("span", "");
    this.when.append(this.time, this.why);
    const line = element("p", "figure-value");
    line.append(this.value);
    if (unit) line.append(element("span", "figure-unit", unit));
    this.unit = unit;
    part.root.classList.add("figure");
    part.root.append(element("p", "figure-label", label), line, this.when);
  }

  add({ data, time }) {
    const leaves = numericLeaves(this.pick(data));
    // The first number stays the one that is shown, also if a later event lacks it.
    this.name ??= leaves.keys().next().value;
    if (!leaves.has(this.name)) return;
    this.newest = leaves.get(this.name);
    this.at = time;
    if (this.newest === null) return;
    this.recent.push(this.newest);
    if (this.recent.length > 10) this.recent.shift();
  }

  gap() {}

  clear() {
    this.name = undefined;
    this.newest = null;
    this.at = null;
    this.recent = []; // numbers, for their decimals
  }

  draw() {
    setText(this.value, this.#text());
    this.tick();
  }

  #text() {
    if (this.newest === null) return "–";
    return this.format(this.newest, Math.max(...this.recent.map(decimalsOf)));
  }

  tick() {
    const { away, tally, everLive } = this.part;
    this.part.root.classList.toggle("stale", away !== "");
    setText(this.time, this.at === null ? "" : this.#instant());
    if (away) setText(this.why, this.at === null ? away : ` · ${away}`);
    else if (this.at !== null) setText(this.why, ` · ${ago(tally.age(Date.now(), this.at))}`);
    else if (!everLive) setText(this.why, "");
    else setText(this.why, tally.count > 0 ? "No numbers in these events." : NOTHING);
  }

  #instant() {
    const instant = new Date(this.at).toISOString();
    if (this.time.dateTime !== instant) {
      this.time.dateTime = instant;
      this.time.title = fullTime(this.at);
    }
    return clock(this.at, Date.now());
  }

  spoken() {
    return this.newest === null ? "" : `${this.#text()} ${this.unit}`.trim();
  }

  restyle() {}

  destroy() {}
}
