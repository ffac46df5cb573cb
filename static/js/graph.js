// The graph: uPlot with our own legend; the caller redraws it at most once a frame.

import { element, setText } from "./dom.js";
import { isPresent } from "./points.js";
import { decimalsOf, formatNumber, shortExponential } from "./values.js";
import { clock, tickLabels } from "./times.js";

// From the fifth on, lines are dashed: colour must not be the only difference between lines.
const SOLID_LINES = 4;
const DASH = [6, 4];
const X_AXIS_HEIGHT = 30;
const MIN_SPAN = 0.02; // seconds
const LEFT = "y";
const RIGHT = "right";

/**
 * Draws a Points table into the element `graph`, with a legend in `legend`; `at` has the time under
 * the cursor, and `more` is shown if the table lacks lines. `format(number)` is for the legend.
 */
export class Graph {
  constructor(elements, points, format = null) {
    this.elements = elements;
    this.points = points;
    this.format = format;
    this.uPlot = null;
    this.plot = null;
    this.hidden = new Set();
    this.isRight = () => false; // whether the line of this name has the second axis
    this.seconds = 0; // of the time before the newest point that is drawn; 0 for all
    this.from = 0; // the index of the first point that is drawn
    this.drawn = "[]"; // the names of the lines, as JSON
    this.hovered = null;
    this.items = new Map();
    this.resizes = new ResizeObserver(() => this.#fit());
    this.resizes.observe(elements.graph);
  }

  /** Draws with uPlot from now on. Without it, there is only the legend. */
  use(uPlot) {
    this.uPlot = uPlot;
    this.restyle();
  }

  /** Draws with the colours and the font that the element has now. */
  restyle() {
    this.#rebuild();
  }

  /** Frees the plot. */
  destroy() {
    this.ended = true; // a plot that is made later would keep its listeners of the window
    this.resizes.disconnect();
    this.plot?.destroy();
    this.plot = null;
  }

  /** Updates the plot, the legend and the data attributes from the table. */
  render() {
    const { points } = this;
    points.trim();
    this.from = points.since(this.seconds);
    const names = points.names;
    if (JSON.stringify(names) !== this.drawn) this.#rebuild();
    else if (this.plot) this.#redraw();
    const { dataset } = this.elements.graph;
    dataset.points = String(points.length - this.from);
    dataset.series = names.join(",");
    this.elements.more.hidden = !points.hasUndrawn;
    this.#renderLegend();
  }

  /** The newest number of this line, formatted as in the legend. */
  latest(name) {
    return this.#format(name, this.points.last(name));
  }

  /** The text for a screen reader in place of the plot. */
  describe() {
    const { points } = this;
    const lines = points.names.map((name) => `${name} now ${this.latest(name)}`);
    const words = this.plot
      ? `Line graph, ${points.length - this.from} points: ${lines.join(", ")}`
      : "Graph: no numbers to draw";
    this.elements.graph.setAttribute("aria-label", words);
  }

  /** Draws the lines for which `isRight(name)` with the second axis, and so many seconds before the newest point. */
  choose(isRight, seconds) {
    this.isRight = isRight;
    this.seconds = seconds;
    this.from = this.points.since(seconds);
    for (const { button } of this.items.values()) button.remove(); // their order may be another
    this.items.clear();
    this.#rebuild();
  }

  #data() {
    const { points, from } = this;
    const columns = [points.times, ...points.names.map((name) => points.drawn(name))];
    return from > 0 ? columns.map((column) => column.slice(from)) : columns;
  }

  #rebuild() {
    if (this.ended) return;
    const { graph } = this.elements;
    const { names } = this.points;
    this.plot?.destroy();
    this.plot = null;
    this.drawn = JSON.stringify(names);
    if (names.length > 0) {
      this.colours = readColours(graph);
      if (this.uPlot) this.plot = new this.uPlot(this.#options(names), this.#data(), graph);
    }
    this.#rebuildLegend(names);
  }

  #redraw() {
    const width = this.#lineWidth();
    for (const series of this.plot.series.slice(1)) series.width = width;
    this.plot.setData(this.#data());
  }

  // Thin if the points are close: thick lines would merge.
  #lineWidth() {
    return (this.points.length - this.from) * 4 > this.elements.graph.clientWidth ? 1.5 : 2;
  }

  #fit() {
    this.plot?.setSize(this.#size());
  }

  #size() {
    const { clientWidth, clientHeight } = this.elements.graph;
    return { width: clientWidth, height: clientHeight };
  }

  #options(names) {
    const { axis, grid } = this.colours;
    const font = `12px ${getComputedStyle(this.elements.graph).fontFamily}`;
    const shared = { stroke: axis, font, grid: { stroke: grid, width: 1 }, ticks: { show: false } };
    const numbers = {
      ...shared,
      size: axisWidth,
      gap: 8,
      space: 36,
      values: (_, ticks, __, ___, step) => tickNumbers(ticks, step),
    };
    const onRight = names.filter(this.isRight).length;
    return {
      ...this.#size(),
      // On the right, half a label has to fit, as the last point may have one.
      padding: [12, onRight > 0 ? 4 : 30, 0, onRight < names.length ? 4 : 30],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 8 } },
      scales: { x: { time: true, range: timeRange } },
      axes: [
        {
          ...shared,
          grid: { show: false },
          size: X_AXIS_HEIGHT,
          space: 80,
          values: (_, ticks, __, ___, step) => tickLabels(ticks, step),
        },
        { ...numbers, scale: LEFT, show: onRight < names.length },
        { ...numbers, scale: RIGHT, side: 1, show: onRight > 0, grid: { show: false } },
      ],
      series: [{}, ...names.map((name, index) => this.#line(name, index, names.length))],
      hooks: { setCursor: [(plot) => this.#hover(plot.cursor.idx)], draw: [drawEnds] },
    };
  }

  #line(name, index, count) {
    const stroke = this.colours.lines[index % this.colours.lines.length];
    return {
      label: name,
      scale: this.isRight(name) ? RIGHT : LEFT,
      show: !this.hidden.has(name),
      stroke,
      width: this.#lineWidth(),
      dash: index >= SOLID_LINES ? DASH : undefined,
      // Only a single line is filled: several fills would cover each other.
      fill: count === 1 ? (plot) => fade(plot, stroke) : undefined,
      // uPlot interrupts the line at null, and continues it over undefined.
      spanGaps: false,
      points: { size: 5, fill: stroke, stroke },
    };
  }

  // --- the legend: names, newest values, and a switch for each line ---------------

  #rebuildLegend(names) {
    const { legend } = this.elements;
    for (const [name, item] of this.items) {
      if (names.includes(name)) continue;
      item.button.remove();
      this.items.delete(name);
      this.hidden.delete(name);
    }
    names.forEach((name, index) => {
      if (!this.items.has(name)) {
        this.items.set(name, this.#legendItem(name));
        // New lines are the last ones. A button that is moved would lose the focus.
        legend.append(this.items.get(name).button);
      }
      const item = this.items.get(name);
      item.swatch.style.borderColor = this.colours.lines[index % this.colours.lines.length];
      item.swatch.style.borderStyle = index >= SOLID_LINES ? "dashed" : "solid";
      setText(item.axis, this.isRight(name) ? "right axis" : "");
    });
    this.#renderLegend();
  }

  #legendItem(name) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "legend-item";
    button.title = "Show or hide this line";
    button.setAttribute("aria-pressed", String(!this.hidden.has(name)));
    const swatch = element("span", "legend-swatch");
    const value = element("span", "legend-value");
    const axis = element("span", "legend-axis");
    button.append(swatch, element("span", "legend-name", name), value, axis);
    button.addEventListener("click", () => this.#toggle(name, button));
    return { button, swatch, value, axis };
  }

  #toggle(name, button) {
    const show = this.hidden.delete(name);
    if (!show) this.hidden.add(name);
    button.setAttribute("aria-pressed", String(show));
    this.plot?.setSeries(this.points.names.indexOf(name) + 1, { show });
  }

  #hover(index) {
    this.hovered = index ?? null;
    this.#renderLegend();
  }

  #renderLegend() {
    const { points, hovered } = this;
    const at = hovered === null ? -1 : this.from + hovered;
    const instant = points.times[at];
    setText(this.elements.at, instant === undefined ? "" : clock(instant * 1000, Date.now()));
    for (const [name, item] of this.items) {
      const number =
        instant === undefined ? points.last(name) : points.columns.get(name)?.[at];
      setText(
        item.value,
        isPresent(number) ? this.#format(name, number) : "–",
      );
    }
  }

  // As many decimals as the newest ten numbers of the line need, like the list beside it.
  #format(name, number) {
    if (this.format) return this.format(number);
    const recent = (this.points.columns.get(name) ?? []).slice(-10).filter(isPresent);
    return formatNumber(number, Math.max(0, decimalsOf(number), ...recent.map(decimalsOf)));
  }
}

function readColours(element) {
  const style = getComputedStyle(element);
  const read = (name) => style.getPropertyValue(name).trim();
  return {
    axis: read("--graph-axis"),
    grid: read("--graph-grid"),
    lines: Array.from({ length: 8 }, (_, index) => read(`--line-${index + 1}`)),
  };
}

// For a single point uPlot would show years; for one burst, nanoseconds.
function timeRange(plot) {
  const times = plot.data[0];
  const to = times[times.length - 1];
  return times.length < 2 ? [to - 10, to + 1] : [Math.min(times[0], to - MIN_SPAN), to];
}

// As wide as the widest label, so that 1,000,000 is not cut and 0.5 wastes no space.
function axisWidth(plot, labels, axisIndex) {
  const widest = (labels ?? []).reduce((most, label) => Math.max(most, label.length), 0);
  const axis = plot.axes[axisIndex];
  return Math.max(36, Math.ceil(widest * 7.2) + axis.gap + 4);
}

// With the digits in which the ticks differ: 1000001 and 1000002 are not both "1M".
function tickNumbers(ticks, step) {
  const largest = Math.max(...ticks.map(Math.abs), step);
  const digits = Math.min(15, Math.max(4, Math.ceil(Math.log10(largest / step)) + 2));
  const decimals = step < 1e-6 ? Math.min(15, 1 - Math.floor(Math.log10(step))) : decimalsOf(step);
  return ticks.map((tick) => {
    const size = Math.abs(tick);
    if (size >= 1e15 || (size > 0 && size < 1e-6)) return shortExponential(tick, digits);
    return size >= 1e6 ? compact(tick, digits) : formatNumber(tick, decimals);
  });
}

function compact(number, maximumSignificantDigits) {
  const options = { notation: "compact", maximumSignificantDigits };
  return new Intl.NumberFormat("en", options).format(number);
}

function fade(plot, colour) {
  const { top, height } = plot.bbox;
  if (height <= 0) return "transparent"; // before the first layout
  const gradient = plot.ctx.createLinearGradient(0, top, 0, top + height);
  // A page may name its colours; the context gives them in hexadecimal.
  plot.ctx.fillStyle = colour;
  const { fillStyle } = plot.ctx;
  if (!/^#[0-9a-f]{6}$/.test(fillStyle)) return "transparent";
  gradient.addColorStop(0, `${fillStyle}38`);
  gradient.addColorStop(1, `${fillStyle}05`);
  return gradient;
}

// A dot at the newest point of each line.
function drawEnds(plot) {
  const { ctx, data } = plot;
  const ratio = globalThis.devicePixelRatio || 1;
  plot.series.forEach((series, index) => {
    if (index === 0 || !series.show) return;
    const last = data[index].findLastIndex(isPresent);
    if (last < 0) return;
    ctx.beginPath();
    ctx.arc(
      plot.valToPos(data[0][last], "x", true),
      plot.valToPos(data[index][last], series.scale, true),
      4 * ratio,
      0,
      2 * Math.PI,
    );
    ctx.fillStyle = series.stroke(plot, index);
    ctx.fill();
  });
}
