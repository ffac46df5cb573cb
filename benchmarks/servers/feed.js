"use strict";
// What is to be published and when; the layout is in ../feed.h, the rules in feed.py.
const fs = require("fs");

const IDLE_MS = 250;
const SLICE_NS = 5_000_000;

const monotonic = () => Number(process.hrtime.bigint());

module.exports = function follow(path, publish) {
  const fd = fs.openSync(path, "r+");
  const shared = Buffer.alloc(24);
  let total = 0;
  let next = 0;

  function make() {
    total += 1;
    const event = { seq: total, stamp: monotonic(), pad: "" };
    const size = Number(shared.readBigUInt64LE(16));
    event.pad = "x".repeat(Math.max(0, size - JSON.stringify(event).length));
    publish(event);
    const count = Buffer.alloc(8);
    count.writeBigUInt64LE(BigInt(total));
    fs.writeSync(fd, count, 0, 8, 8);
  }

  function turn() {
    fs.readSync(fd, shared, 0, 24, 0);
    const rate = shared.readDoubleLE(0);
    if (!(rate > 0)) {
      next = 0;
      setTimeout(turn, IDLE_MS);
      return;
    }
    let now = monotonic();
    const end = now + SLICE_NS;
    if (!next || now > next + 1e9) next = now;
    while (next <= now && now < end) {
      make();
      next += 1e9 / rate;
      now = monotonic();
    }
    const wait = Math.min(IDLE_MS, (next - now) / 1e6);
    if (wait < 0) setImmediate(turn);
    else setTimeout(turn, Math.ceil(wait));
  }
  turn();
};
