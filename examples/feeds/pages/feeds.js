// Each <section data-channel="..."> of the page is a column with the newest events of that channel.

import { connect } from "./static/pushserver.js";

const MOST = 100; // events in a column
const FLUSH_MS = 250; // between two changes of a column
const STATUS_MS = 15_000; // between two questions for failures
const FIELDS = 8; // of an object that is no entry of a feed

const byId = (id) => document.getElementById(id);
const view = new URLSearchParams(location.search); // the words and the hidden columns
const hidden = new Set((view.get("hide") ?? "").split(",").filter(Boolean));
const server = connect();
const columns = [];
let words = [];
let isPaused = false;

class Column {
  constructor(section) {
    this.section = section;
    this.channel = section.dataset.channel;
    this.waiting = []; // events that the column does not show yet
    this.refusal = ""; // of the channel
    this.failure = ""; // of its sources
    this.shown = 0; // events that have the words
    const heading = section.querySelector("h2");
    heading.id = `of-${this.channel}`;
    section.setAttribute("aria-labelledby", heading.id);
    this.name = heading.firstChild.textContent.trim();
    this.count = element("p", "quiet");
    this.problem = element("p", "problem");
    this.list = element("ol");
    this.list.tabIndex = 0; // it scrolls
    this.list.setAttribute("aria-labelledby", heading.id);
    section.append(this.count, this.problem, this.list);
    server.watch(this.channel, (event) => this.add(event), {
      last: MOST,
      onGap: ({ missed }) => this.add({ gap: missed === null ? "Some" : missed }),
      onReset: () => this.clear(),
      onState: ({ state, reason }) => {
        this.refusal = state === "closed" ? reason : "";
        this.tell();
      },
    });
  }

  add(event) {
    this.waiting.push(event);
    if (this.waiting.length > MOST) this.waiting.shift();
    this.timer ??= setTimeout(() => this.flush(), FLUSH_MS);
    showPaused();
  }

  // All that has come in since the last time, in one change of the page.
  flush() {
    this.timer = null;
    if (isPaused) return;
    const rows = this.waiting.splice(0).map(rowOf).reverse();
    for (const row of rows) filter(row);
    const { scrollTop, scrollHeight } = this.list;
    this.list.prepend(...rows);
    while (this.list.children.length > MOST) this.list.lastChild.remove();
    // Who reads further down stays there.
    if (scrollTop > 0) this.list.scrollTop = scrollTop + this.list.scrollHeight - scrollHeight;
    this.summarize();
  }

  clear() {
    this.waiting = [];
    this.list.replaceChildren();
    this.summarize();
    showPaused();
  }

  filter() {
    for (const row of this.list.children) filter(row);
    this.summarize();
  }

  summarize() {
    const { length } = this.list.querySelectorAll("[data-words]");
    this.shown = this.list.querySelectorAll("[data-words]:not([hidden])").length;
    const all = `${length} ${length === 1 ? "event" : "events"}`;
    this.count.textContent = length === 0 ? "Nothing yet." : words.length ? `${this.shown} of ${all}` : all;
    showFound();
  }

  tell() {
    this.problem.textContent = this.refusal || this.failure;
  }
}

// --- one event ---------------------------------------

function rowOf({ data, event, time, gap }) {
  const row = element("li");
  if (gap !== undefined) {
    row.append(element("p", "quiet", gap === 1 ? "One event is missing here." : `${gap} events are missing here.`));
    return row;
  }
  const isObject = typeof data === "object" && data !== null && !Array.isArray(data);
  row.append(...(isObject ? partsOf(data) : [element("p", "", asText(data))]));
  const by = typeof data?.author === "string" && data.author ? `${data.author.slice(0, 100)}, ` : "";
  const foot = element("p", "quiet", `${by}${event}, `);
  foot.append(timeOf(Date.parse(data?.published ?? "") || time));
  row.append(foot);
  row.dataset.words = row.textContent.toLowerCase();
  return row;
}

// An entry of a feed has a title, and any other object is shown by its first fields.
function partsOf(data) {
  if (typeof data.title === "string" && typeof (data.summary ?? "") === "string") {
    const title = element("p", "title");
    title.dir = "auto";
    title.append(linkOf(data.link, data.title.slice(0, 300) || "(no title)"));
    const summary = element("p", "", (data.summary ?? "").slice(0, 500));
    summary.dir = "auto";
    return [title, summary];
  }
  const list = element("dl");
  for (const [name, value] of Object.entries(data).slice(0, FIELDS)) {
    list.append(element("dt", "", name.slice(0, 50)), element("dd", "", asText(value)));
  }
  return [list];
}

function asText(value) {
  const plain = (_, part) => (typeof part === "bigint" ? `${part}` : part);
  const text = typeof value === "string" ? value : JSON.stringify(value, plain);
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
}

function linkOf(address, text) {
  const isLink = typeof address === "string" && /^https?:/.test(address) && URL.canParse(address);
  if (!isLink) return text;
  const link = element("a", "", text);
  Object.assign(link, { href: address, rel: "noopener noreferrer", target: "_blank" });
  return link;
}

function timeOf(time) {
  const date = new Date(time);
  const made = element("time", "", date.toLocaleString([], { dateStyle: "short", timeStyle: "medium" }));
  made.dateTime = date.toISOString();
  return made;
}

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

// --- what is shown ---------------------------------------

function filter(row) {
  const text = row.dataset.words;
  row.hidden = text !== undefined && !words.every((word) => matches(text, word));
}

const matches = (text, word) => (word.startsWith("-") ? !text.includes(word.slice(1)) : text.includes(word));

function search() {
  words = byId("search").value.toLowerCase().split(/\s+/).filter((word) => word !== "" && word !== "-");
  for (const column of columns) column.filter();
  keepView();
}

// In the columns that are shown.
function showFound() {
  const found = columns.reduce((sum, { section, shown }) => sum + (section.hidden ? 0 : shown), 0);
  const text = words.length > 0 ? `${found} found` : "";
  // Who listens to the page hears each change.
  if (byId("found").textContent !== text) byId("found").textContent = text;
}

function choose() {
  for (const { section, box, channel } of columns) {
    section.hidden = !box.checked;
    if (box.checked) hidden.delete(channel);
    else hidden.add(channel);
  }
  byId("none").hidden = columns.some(({ box }) => box.checked);
  showFound();
  keepView();
}

function showAll() {
  for (const { box } of columns) box.checked = true;
  choose();
  columns[0].box.focus(); // the button is hidden now
}

// The URL of the page has the view: it can be linked, and a reload keeps it.
function keepView() {
  const values = { q: byId("search").value, hide: [...hidden].join(",") };
  for (const [name, value] of Object.entries(values)) {
    if (value) view.set(name, value);
    else view.delete(name);
  }
  history.replaceState(null, "", `${location.pathname}${view.size > 0 ? `?${view}` : ""}`);
}

function pause() {
  isPaused = !isPaused;
  byId("pause").ariaPressed = String(isPaused);
  for (const column of columns) column.flush();
  showPaused();
}

function showPaused() {
  const count = columns.reduce((sum, { waiting }) => sum + waiting.length, 0);
  byId("pause").textContent = isPaused ? `Go on (${count} new)` : "Pause";
}

// --- failures of sources, for those who may know them ---------------------------------------

async function askStatus() {
  for (const column of columns) {
    const { sources } = await answer(`./status?channel=${column.channel}`);
    column.failure = sources.map(({ last_error: error }) => error).filter(Boolean).join("; ");
    column.tell();
  }
}

async function answer(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} answered ${response.status}`);
  return response.json();
}

async function followStatus() {
  try {
    const { publish } = await answer(`./channels/${columns[0].channel}/permissions`);
    if (!publish.allowed) return;
    if (document.visibilityState === "visible") await askStatus();
  } catch {
    // without a connection, as the page says
  }
  setTimeout(followStatus, STATUS_MS);
}

server.onState(({ state, reason }) => {
  const texts = { live: "Live.", connecting: "Connecting…", closed: `No connection: ${reason}.` };
  byId("state").textContent = texts[state] ?? `The connection is lost: ${reason}. Trying again…`;
});

byId("search").value = view.get("q") ?? "";
for (const section of document.querySelectorAll("section[data-channel]")) {
  const column = new Column(section);
  columns.push(column);
  const box = element("input");
  Object.assign(box, { type: "checkbox", checked: !hidden.has(column.channel), onchange: choose });
  column.box = box;
  const label = element("label");
  label.append(box, ` ${column.name}`);
  byId("chosen").append(label);
}
byId("search").oninput = search;
byId("pause").onclick = pause;
byId("all").onclick = showAll;
search();
choose();
followStatus();
