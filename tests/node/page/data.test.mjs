// The data of the live page without a browser; run by tests/page/test_scripts.py.

import assert from "node:assert/strict";
import { test } from "node:test";
import { fieldOf, fieldPicker, Fields } from "../../../static/js/fields.js";
import { Held } from "../../../static/js/held.js";
import { nearest } from "../../../static/js/names.js";
import { Points } from "../../../static/js/points.js";
import { combinedState, emptyText, noneText } from "../../../static/js/state.js";
import { leaves, numericLeaves, parseExactly, publicationText } from "../../../static/js/values.js";

const keys = (count) => Object.fromEntries(Array.from({ length: count }, (_, index) => [`k${index}`, index]));

test("fields are the paths of leaves, in the order of their first appearance", () => {
  const fields = new Fields();
  fields.note({ room: { temp: 21.5, name: "x" }, empty: {}, list: [1], none: null });
  fields.note({ room: { temp: "broken" }, none: 3 });
  fields.note(7);
  assert.deepEqual(fields.names, ["room.temp", "room.name", "empty", "list", "none", "value"]);
  assert.deepEqual([...fields.numeric], ["room.temp", "none", "value"]);
  assert.equal(fields.isFull, false);
});

test("ten thousand keys cost a hundred names", () => {
  const fields = new Fields();
  for (let turn = 0; turn < 3; turn++) fields.note(keys(10_000));
  fields.note({ another: 1 });
  assert.equal(fields.names.length, 100);
  assert.equal(fields.isFull, true);
  assert.equal(leaves(keys(10_000), 5).length, 5);
});

test("a field has its value also with dots in a key, and none from a prototype", () => {
  assert.equal(fieldOf({ "a.b": 1 }, "a.b"), 1);
  assert.equal(fieldOf({ a: { b: 2 } }, "a.b"), 2);
  assert.equal(fieldOf({ a: 1 }, "constructor"), undefined);
  assert.equal(fieldOf(JSON.parse('{"__proto__": 5}'), "__proto__"), 5);
  assert.equal(fieldOf("text", "value"), "text");
  assert.equal(fieldOf([1, 2], "length"), undefined);
});

test("a picker leaves out other fields, and data without any of them", () => {
  const pick = fieldPicker(["b", "value"]);
  assert.deepEqual(pick({ a: 1, b: 2 }), { b: 2 });
  assert.equal(pick({ a: 1 }), undefined);
  assert.equal(pick("text"), "text");
  assert.deepEqual(fieldPicker([])({ a: 1 }), { a: 1 });
});

const at = (channel, time, data = time) => ({ channel, time, data, event: "message" });

test("the histories of several channels are merged by time, each in its own order", () => {
  const held = new Held(100);
  for (const time of [1000, 3000, 2000, 5000]) held.add(at("a", time)); // the clock was set back
  const isNewest = [500, 2500, 6000].map((time) => held.add(at("b", time)));
  assert.deepEqual(isNewest, [false, false, true]);
  assert.deepEqual(held.all.filter(({ channel }) => channel === "a").map(({ time }) => time), [1000, 3000, 2000, 5000]);
  assert.deepEqual(held.all.filter(({ channel }) => channel === "b").map(({ time }) => time), [500, 2500, 6000]);
  assert.deepEqual([held.all[0].time, held.newest.time], [500, 6000]);
  held.remove("a");
  assert.deepEqual(held.all.map(({ time }) => time), [500, 2500, 6000]);
});

test("what is held is bounded in number and in characters", () => {
  const held = new Held(100);
  for (let time = 0; time < 10_000; time++) held.add(at("a", time));
  assert.ok(held.all.length <= 150);
  assert.equal(held.newest.time, 9999);
  for (let time = 0; time < 200; time++) held.add(at("a", time, "x".repeat(65_536)));
  assert.ok(held.characters <= 4_000_000);
  assert.equal(held.characters, held.all.reduce((sum, { length }) => sum + length, 0));
});

test("the search is by words, time and fields, and counts all", () => {
  const held = new Held(100);
  for (let n = 1; n <= 20; n++) held.add(at("a", n * 1000, n % 2 ? { odd: n } : `Even ${n}`));
  const found = (options, most = 100) => held.search(held.all, options, most);
  assert.equal(found({ filter: "EVEN 2" }).found, 3); // 2, 12, 20
  assert.equal(found({ seconds: 5 }).found, 6);
  assert.equal(found({ has: (data) => data.odd !== undefined }, 2).shown.length, 2);
  assert.equal(found({ has: (data) => data.odd !== undefined, seconds: 5 }).found, 3);
  assert.deepEqual(held.search([], { seconds: 5 }, 10), { shown: [], found: 0 });
});

test("points show what is measured after the clock was set back", () => {
  const points = new Points(100, 8);
  for (const seconds of [1000, 9000, 9001, 1002, 1003]) points.add(seconds * 1000, new Map([["t", seconds]]));
  assert.deepEqual(points.times, [1000, 1002, 1003]);
  assert.deepEqual(points.columns.get("t"), [1000, 1002, 1003]);
  points.add(1_000_000, new Map([["t", 1]])); // three seconds: less than a minute
  assert.equal(points.length, 4);
  assert.ok(points.times[3] > points.times[2]);
});

test("a span of time has its first point", () => {
  const points = new Points(100, 8);
  for (let second = 0; second <= 10; second++) points.add(second * 1000, new Map([["t", second]]));
  assert.deepEqual([0, 3, 100].map((seconds) => points.since(seconds)), [0, 7, 0]);
  assert.equal(new Points(100, 8).since(10), 0);
});

test("numbers at the limits can be drawn", () => {
  const points = new Points(100, 8);
  for (const value of [1e308, -1e308, null, 2n ** 53n + 1n, -0, 5e-324]) points.add(points.length, new Map([["t", value]]));
  assert.deepEqual(points.drawn("t"), [1e300, -1e300, null, 2 ** 53, -0, 5e-324]);
});

test("the number of points and lines is bounded", () => {
  const points = new Points(100, 8);
  for (let turn = 0; turn < 10_000; turn++) points.add(turn, numericLeaves({ [`line${turn % 50}`]: turn }));
  assert.ok(points.length <= 141);
  assert.ok(points.names.length <= 8);
  assert.equal(points.hasUndrawn, true);
});

test("a publication is copied as it was sent", () => {
  const data = parseExactly('{"id": 9007199254740993, "nan": "NaN", "big": 1e308, "text": "\\u202e<b>"}');
  const text = publicationText({ channel: "a", event: "e", data, offset: 3, time: 1795334400500 });
  assert.match(text, /"time": 1795334400\.5/);
  assert.deepEqual(JSON.parse(text).data.text, "\u202e<b>");
  assert.match(text, /"nan": "NaN"/);
});

test("several states are one: live as soon as one channel is", () => {
  const live = { state: "live", reason: "" };
  const refused = { state: "closed", reason: "permission denied (103)" };
  const lost = { state: "reconnecting", reason: "lost" };
  assert.equal(combinedState([["a", live], ["b", live]]).reason, "");
  assert.deepEqual(combinedState([["a", live], ["b", refused]]), { state: "live", reason: "b (permission denied (103))" });
  assert.equal(combinedState([["a", refused], ["b", refused]]).state, "closed");
  assert.equal(combinedState([["a", live], ["b", lost]]), lost);
});

test("only similar names are near", () => {
  const names = ["big", "text", "hostile", "history", "nohost", "nohist:a"];
  assert.deepEqual(nearest("nohist", names, 3), ["nohost", "nohist:a"]);
  assert.deepEqual(nearest("numbers", ["number", "umbers", "Nmubers", "members"], 3).sort(), ["Nmubers", "number", "umbers"]);
  assert.deepEqual(nearest("a", ["b", "ab"], 3), []);
});

test("an empty page says why", () => {
  const one = { several: false, historySize: 100 };
  assert.equal(emptyText(one, 0), "Nothing was published here yet.");
  assert.match(emptyText(one, 3), /since the server began a new history/);
  assert.match(emptyText({ ...one, historySize: 0 }, 0), /^This channel keeps no history/);
  assert.match(emptyText({ several: true, historySize: 0 }, 0), /^These channels keep no history/);
});

test("the text for no rows names fields that no event has", () => {
  assert.equal(noneText([]), "None of the events on this page matches.");
  assert.equal(noneText([""]), 'None of the events on this page has the field "".');
  assert.equal(noneText(["a", "b"]), 'None of the events on this page has the fields "a", "b".');
});
