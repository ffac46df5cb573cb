// The rule for the names of channels, by the table that the server has too; run by tests/page/test_scripts.py.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { channelName } from "../../../static/js/arguments.js";
import { isName } from "../../../static/js/naming.js";

const table = JSON.parse(readFileSync(new URL("../../channel_names.json", import.meta.url)));

test("a page accepts the names that the server accepts", () => {
  for (const name of table.valid) {
    assert.ok(isName(name), name);
    assert.equal(channelName("watch", name), name);
  }
});

test("a page refuses the names that the server refuses", () => {
  for (const name of table.invalid) {
    assert.ok(!isName(name), JSON.stringify(name));
    assert.throws(() => channelName("watch", name), TypeError);
  }
});
