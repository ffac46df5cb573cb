// When the live page is drawn, without a browser; run by tests/page/test_scripts.py.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Drawing } from "../../../static/js/drawing.js";

test("a hidden page, which gets no frames, is drawn once when it is seen again", () => {
  const frames = [];
  globalThis.requestAnimationFrame = (onFrame) => frames.push(onFrame);
  let drawn = 0;
  const drawing = new Drawing(() => (drawn += 1));
  for (let event = 0; event < 60_000; event++) drawing.schedule();
  assert.deepEqual([frames.length, drawn], [1, 0]);
  frames.pop()();
  assert.deepEqual([frames.length, drawn], [0, 1]);
});

test("a page is drawn at most every 50 ms", (context) => {
  const timers = [];
  context.mock.method(globalThis, "setTimeout", (onTime, wait) => timers.push({ onTime, wait }));
  const frames = [];
  globalThis.requestAnimationFrame = (onFrame) => frames.push(onFrame);
  let drawn = 0;
  const drawing = new Drawing(() => (drawn += 1));
  drawing.schedule();
  frames.pop()();
  for (let event = 0; event < 100; event++) drawing.schedule();
  assert.equal(frames.length, 0);
  const [{ onTime, wait }, ...others] = timers;
  assert.deepEqual(others, []);
  assert.ok(wait > 0 && wait <= 50);
  onTime();
  assert.equal(frames.length, 1);
  frames.pop()();
  assert.equal(drawn, 2);
  drawing.soon();
  assert.equal(frames.length, 1);
});
