// A small bar chart of counts, without axes, for the row of a table.

const SVG = "http://www.w3.org/2000/svg";
const STEP = 5; // the width of a bar with its space, in units of the drawing
const HEIGHT = 20;

/** Draws counts in `element`, a picture that a screen reader leaves out. */
export class Bars {
  constructor() {
    this.element = document.createElementNS(SVG, "svg");
    this.element.classList.add("bars");
    this.element.setAttribute("aria-hidden", "true");
    this.element.setAttribute("preserveAspectRatio", "none");
    this.bars = [];
    this.drawn = "";
  }

  /** The highest of these counts has the whole height; one above 0 is always visible. */
  show(counts) {
    const signature = counts.join();
    if (signature === this.drawn) return;
    this.drawn = signature;
    if (counts.length !== this.bars.length) this.#make(counts.length);
    const most = Math.max(1, ...counts);
    counts.forEach((count, index) => {
      const height = count === 0 ? 1 : Math.max(2, (HEIGHT * count) / most);
      this.bars[index].setAttribute("y", String(HEIGHT - height));
      this.bars[index].setAttribute("height", String(height));
      this.bars[index].classList.toggle("none", count === 0);
    });
  }

  #make(length) {
    this.element.setAttribute("viewBox", `0 0 ${length * STEP} ${HEIGHT}`);
    this.bars = Array.from({ length }, (_, index) => {
      const bar = document.createElementNS(SVG, "rect");
      bar.setAttribute("x", String(index * STEP));
      bar.setAttribute("width", String(STEP - 1));
      return bar;
    });
    this.element.replaceChildren(...this.bars);
  }
}
