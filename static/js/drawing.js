// When a view is drawn: in a frame, and at most twenty times a second, as more cannot be read.

const DRAW_MS = 50;

/** Calls `draw` in a frame after `schedule`; a hidden page gets no frames, and is drawn later. */
export class Drawing {
  constructor(draw) {
    this.draw = draw;
    this.drawnAt = -Infinity;
    this.scheduled = false;
  }

  schedule() {
    if (this.scheduled) return;
    this.scheduled = true;
    const wait = Math.max(0, DRAW_MS - (performance.now() - this.drawnAt));
    const onFrame = () => requestAnimationFrame(() => this.#draw());
    if (wait > 0) setTimeout(onFrame, wait);
    else onFrame();
  }

  /** Schedules the next drawing for the next frame. */
  soon() {
    this.drawnAt = -Infinity;
    this.schedule();
  }

  #draw() {
    this.scheduled = false;
    this.drawnAt = performance.now();
    this.draw();
  }
}
