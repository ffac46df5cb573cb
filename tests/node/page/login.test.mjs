// The login of the live page without a browser; run by tests/page/test_scripts.py.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Keeper, Login } from "../../../static/js/login.js";

const value = { by: "token", text: "a.b.c" };

function storage() {
  const kept = new Map();
  globalThis.sessionStorage = {
    getItem: (name) => kept.get(name) ?? null,
    setItem: (name, text) => kept.set(name, text),
    removeItem: (name) => kept.delete(name),
  };
  return kept;
}

function login(keeper) {
  const elements = {};
  const byId = (id) => (elements[id] ??= { addEventListener() {}, textContent: "" });
  return { login: new Login(byId, keeper, {}), elements };
}

test("a token that has ended is forgotten at the next load, without a question to the server", (context) => {
  let now = 1_000_000;
  context.mock.method(Date, "now", () => now);
  context.mock.method(globalThis, "setTimeout", () => {});
  const kept = storage();
  const first = new Keeper("/");
  first.keep({ ...value });
  login(first).login.learn({ seconds: 90 });
  now += 89_000;
  const second = new Keeper("/");
  assert.equal(second.value.text, "a.b.c");
  assert.equal(login(second).elements["login-problem"].textContent, "");
  now += 1000;
  const third = new Keeper("/");
  assert.deepEqual([third.value, kept.size], [null, 0]);
  assert.equal(login(third).elements["login-problem"].textContent, "The token has expired.");
});

test("a key and a token without an end are kept", () => {
  storage();
  const first = new Keeper("/");
  first.keep({ ...value });
  login(first).login.learn({ seconds: null });
  assert.deepEqual(new Keeper("/").value, value);
  assert.equal(new Keeper("/other").value, null);
});
