// The list of all channels. It asks for the list every two seconds while the page is visible.

import { element, setText } from "./dom.js";
import { ago, fullTime } from "./times.js";

const PERIOD = 2_000;

const table = document.getElementById("channels");
const body = table.tBodies[0];
const empty = document.getElementById("channels-empty");
const state = document.getElementById("channels-state");

function makeRow(name) {
  const row = element("tr", "");
  const head = element("th", "channel-name");
  head.scope = "row";
  const link = element("a", "", name);
  link.href = `${table.dataset.root}/channels/${encodeURIComponent(name)}`;
  head.append(link);
  row.append(head, element("td", "last"));
  for (let count = 0; count < 3; count += 1) row.append(element("td", "number"));
  row.dataset.channel = name;
  return row;
}

function fill(row, channel, now) {
  const [, last, minute, retained, watching] = row.cells;
  const at = channel.last && channel.last.time * 1000;
  setText(last, channel.last ? `${channel.last.event}, ${ago(Math.max(0, now - at))}` : "–");
  last.title = channel.last ? fullTime(at) : "";
  setText(minute, channel.last_minute.toLocaleString("en"));
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
  const shown = total > channels.length ? `the newest ${channels.length} of ` : "";
  setText(state, `${shown}${total.toLocaleString("en")} ${total === 1 ? "channel" : "channels"}`);
}

async function update() {
  try {
    const answer = await fetch(`${table.dataset.root}/channels/`, {
      headers: { Accept: "application/json" },
      cache: "no-store",
    });
    const content = await answer.json();
    if (answer.ok) show(content);
    else setText(state, `The server answered ${answer.status}: ${content.error.message}`);
  } catch {
    setText(state, "The server does not answer. Trying again…");
  }
}

async function run() {
  for (;;) {
    if (!document.hidden) await update();
    await new Promise((resolve) => {
      window.setTimeout(resolve, PERIOD);
      document.addEventListener("visibilitychange", resolve, { once: true });
    });
  }
}

run();
