// The list of all channels. It asks for the list every two seconds while the page is visible.

import { Bars } from "./bars.js";
import { element, setText } from "./dom.js";
import { askServer, Keeper, Login } from "./login.js";
import "./names.js";
import { ago, fullTime } from "./times.js";

const PERIOD = 2_000;
const SLICES = 12; // of the last minute

const bars = new WeakMap(); // by row

const table = document.getElementById("channels");
const body = table.tBodies[0];
const empty = document.getElementById("channels-empty");
const state = document.getElementById("channels-state");

const together = document.getElementById("together");

function makeRow(name) {
  const row = element("tr", "");
  const box = element("input", "form-check-input");
  Object.assign(box, { type: "checkbox", value: name, autocomplete: "off" });
  box.setAttribute("aria-label", `Show ${name} together with others`);
  const choice = element("td", "choice");
  choice.append(box);
  const head = element("th", "channel-name");
  head.scope = "row";
  const link = element("a", "", name);
  link.href = `${table.dataset.root}/channels/${encodeURIComponent(name)}`;
  head.append(link);
  const minute = element("td", "number minute");
  bars.set(row, new Bars());
  minute.append(bars.get(row).element, element("span", "count"));
  row.append(choice, head, element("td", "last"), minute);
  for (let count = 0; count < 2; count += 1) row.append(element("td", "number"));
  row.dataset.channel = name;
  return row;
}

function fill(row, channel, now) {
  const [, , last, minute, retained, watching] = row.cells;
  const at = channel.last && channel.last.time * 1000;
  setText(last, channel.last ? `${channel.last.event}, ${ago(Math.max(0, now - at))}` : "–");
  last.title = channel.last ? fullTime(at) : "";
  setText(minute.lastChild, channel.last_minute.toLocaleString("en"));
  bars.get(row).show(channel.minute ?? []);
  setText(retained, channel.retained.toLocaleString("en"));
  setText(watching, channel.watchers.toLocaleString("en"));
}

function show({ channels, total }) {
  const known = new Map([...body.rows].map((row) => [row.dataset.channel, row]));
  const now = Date.now();
  // Rows keep their places while the page is open, so that a link does not move under a finger.
  for (const channel of channels) {
    let row = known.get(channel.channel);
    if (!row) {
      row = makeRow(channel.channel);
      body.append(row);
    }
    known.delete(channel.channel);
    fill(row, channel, now);
  }
  for (const row of known.values()) row.remove();
  table.hidden = total === 0;
  empty.hidden = total !== 0;
  showTogether();
  const shown = total > channels.length ? `the newest ${channels.length} of ` : "";
  setText(state, `${shown}${total.toLocaleString("en")} ${total === 1 ? "channel" : "channels"}`);
}

const root = new URL(`${table.dataset.root}/`, window.location.href).href;
const keeper = new Keeper(root);
const ask = (value) => askServer(`${root}channels/?slices=${SLICES}`, value);
const byId = (id) => document.getElementById(id);
const login = byId("login") && new Login(byId, keeper, { ask, onChange });

// Tokens are for single channels.
const key = () => (keeper.value?.by === "key" ? keeper.value : null);

let refused = false; // not asked again, since the server logs each refusal

function onChange() {
  refused = false;
  hide();
  update();
}

// The link to one page for the channels that are ticked.
function showTogether() {
  const names = [...body.querySelectorAll("input:checked")].map(({ value }) => value);
  const query = names.map((name) => `channel=${encodeURIComponent(name)}`).join("&");
  const path = names.length > 1 ? `events?${query}` : `channels/${encodeURIComponent(names[0])}`;
  if (names.length > 0) together.href = `${table.dataset.root}/${path}`;
  else together.removeAttribute("href");
  const words = names.length > 0 ? `Show ${names.length} together` : "Tick channels to show them together";
  setText(together, names.length === 1 ? `Show ${names[0]}` : words);
  together.hidden = table.hidden;
}

body.addEventListener("change", showTogether);

function hide() {
  body.replaceChildren();
  table.hidden = empty.hidden = true;
  showTogether();
}

async function update() {
  const value = key();
  const { ok, status, content } = await ask(value);
  if (value !== key()) return;
  if (ok) show(content);
  else if (status === 0) setText(state, "The server does not answer. Trying again…");
  else refuse(status, content.error.message);
  if (ok) login?.show([], false);
}

function refuse(status, message) {
  refused = true;
  hide();
  if (status === 401 && login && key()) login.forget(message);
  if (login) needKey();
  else setText(state, `The server answered ${status}: ${message}`);
}

function needKey() {
  refused = true;
  setText(state, "The list needs an API key.");
  login.show(["key"], true);
}

async function run() {
  for (;;) {
    if (!document.hidden && !refused) await update();
    await new Promise((resolve) => {
      window.setTimeout(resolve, PERIOD);
      document.addEventListener("visibilitychange", resolve, { once: true });
    });
  }
}

if (login && "needsKey" in table.dataset && !key()) needKey();
run();
