// One watch of a channel without a browser; run by tests/page/test_scripts.py.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Feed } from "../../../static/js/feed.js";
import { Watch } from "../../../static/js/watch.js";

const publication = (offset) => ({ data: offset, offset, event: "message", time: 1 });
const none = () => {};

function watching(options = {}) {
  const events = [];
  const handlers = {
    onEvent: ({ offset, live }) => events.push([offset, live]),
    onGap: none,
    onReset: null,
    onState: none,
  };
  const watch = new Watch({ channel: "a", ...options }, handlers, async () => ({}));
  return { watch, events };
}

const context = { recovered: false, wasRecovering: false, epoch: "e", initial: 10 };

test("the rest of a long history is not live, though it is pushed", () => {
  const { watch, events } = watching();
  // The reply has no room for three of five, so its offset is the one before them all.
  const reply = { context: { ...context, offset: 0, top: 5 }, publications: [1, 2].map(publication) };
  watch.receive({ type: "subscribed", ...reply });
  for (const offset of [3, 4, 5, 6])
    watch.receive({ type: "publications", publications: [publication(offset)] });
  assert.deepEqual(events, [[1, false], [2, false], [3, false], [4, false], [5, false], [6, true]]);
});

test("a watch that joins meanwhile takes them as retained too", () => {
  const { watch, events } = watching({ last: 0 });
  watch.receive({ type: "joined", epoch: "e", offset: 2, initial: 10, top: 4 });
  for (const offset of [3, 4, 5])
    watch.receive({ type: "publications", publications: [publication(offset)] });
  assert.deepEqual(events, [[3, false], [4, false], [5, true]]);
});

test("a feed passes the top of the reply, and without one its offset", async () => {
  for (const [data, top] of [[{ initial: 10, top: 5 }, 5], [{ initial: 10 }, 2]]) {
    const listeners = {};
    const subscription = { on: (name, listener) => (listeners[name] = listener), subscribe: none };
    const posted = [];
    const feed = new Feed({ newSubscription: () => subscription }, "a", none);
    const peer = { id: 1, post: (message) => posted.push(message) };
    feed.add(peer, { watch: 1, last: 10, since: null, joins: false });
    listeners.subscribed({ recovered: false, streamPosition: { epoch: "e", offset: 2 }, data });
    await null;
    subscription.state = "subscribed";
    feed.add(peer, { watch: 2, last: 10, since: null, joins: false });
    assert.deepEqual(posted.map((one) => one.context?.top ?? one.top), [top, top]);
  }
});
