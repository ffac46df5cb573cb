// The choice of the reader and its form in the URL; run by tests/page/test_scripts.py.

import assert from "node:assert/strict";
import { test } from "node:test";
import { readChoice, spanText, writeChoice } from "../../../static/js/choice.js";

const USUAL = { view: "overview", fields: [], right: [], seconds: 0, filter: "", rows: 10 };

test("a URL without a query is the usual choice, and the other way round", () => {
  assert.deepEqual(readChoice(""), { choice: USUAL, problems: [] });
  assert.equal(writeChoice(USUAL, ""), "");
});

test("what is written is read again, and other parameters stay", () => {
  const choice = {
    view: "table",
    fields: ["room.temp", "a,b&c=d #e", "__proto__", "\u202eabc", "💡"],
    right: ["room.temp"],
    seconds: 300,
    filter: 'Oslo "x"',
    rows: 100,
  };
  const query = writeChoice(choice, "?channel=a:b&channel=c&view=json");
  assert.ok(query.startsWith("?channel=a:b&channel=c&view=table&"), query);
  assert.deepEqual(readChoice(query), { choice, problems: [] });
});

for (const [query, problem] of [
  ["view=foo", "view=foo in the address: expected overview, graph, list, table, json"],
  ["view=", "view= in the address: expected overview, graph, list, table, json"],
  ["rows=11", "rows=11 in the address: expected 10, 30, 100, 300"],
  ["seconds=1e3", "seconds=1e3 in the address: expected a whole number from 1 to 315360000"],
  ["seconds=-1", "seconds=-1 in the address: expected a whole number from 1 to 315360000"],
  ["seconds=999999999", "seconds=999999999 in the address: expected a whole number from 1 to 315360000"],
  [`filter=${"x".repeat(201)}`, `filter=${"x".repeat(40)} in the address: expected at most 200 characters`],
  [`field=${"x".repeat(201)}`, "field in the address: expected at most 32, of 200 characters"],
]) {
  test(`the problem of ${query.slice(0, 20)} is named, and costs nothing else`, () => {
    const { choice, problems } = readChoice(`${query}&right=x`);
    assert.deepEqual(problems, [problem]);
    assert.deepEqual(choice, { ...USUAL, right: ["x"] });
  });
}

test("the number of fields in a URL is bounded", () => {
  const query = Array.from({ length: 40 }, (_, index) => `field=f${index}`).join("&");
  assert.equal(readChoice(query).choice.fields.length, 32);
});

test("spans of time are written with the unit that fits", () => {
  const spans = [10, 60, 90, 300, 3600, 5400, 86_400, 90_000, 172_800];
  const texts = ["10 s", "1 min", "90 s", "5 min", "1 h", "90 min", "1 d", "25 h", "2 d"];
  assert.deepEqual(spans.map(spanText), texts);
});
