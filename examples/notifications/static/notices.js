// Notifications in any page, by one line:
//
//   <script type="module" src="https://push.example/static/notices.js" data-token-url="/push-token"></script>
//
// data-token-url is a URL of the page's own site. It answers {"token": "..."} for the user who is logged in, and
// 204 or 401 for nobody; then the page stays as it is. README.md has the rest.

import { connect } from "./pushserver.js";

const MOST = 200; // notices in the panel
const MOST_TOASTS = 3;
const TOAST_MS = 8000;
const SEVERITIES = ["info", "success", "warning", "critical"];

const { tokenUrl } = [...document.scripts].find(({ src }) => src === import.meta.url)?.dataset ?? {};

// Tells the other tabs of the site the user of each token, or an empty name when nobody is logged in.
const tabs = new BroadcastChannel(`notices ${new URL(tokenUrl, document.baseURI)}`);

let server = null;
let user = "";
let isLoggedOut = false;
let readUntil = 0; // a time
let isComplete = false; // whether the retained notices, and what was read of them, are here
let badge = ""; // before the title of the page
const notices = new Map(); // by id: {id, severity, title, text, url, time, row}
const readIds = new Set();
const desktop = new Map(); // notifications of the browser that are shown, by id
const complete = new Set(); // channels

// --- the user ---------------------------------------

async function getToken() {
  const response = await fetch(tokenUrl, { cache: "no-store" });
  isLoggedOut = response.status === 204 || response.status === 401;
  if (!isLoggedOut && !response.ok) throw new Error(`${tokenUrl} answered ${response.status}`);
  const token = isLoggedOut ? null : (await response.json()).token;
  tabs.postMessage(token ? userOf(token) : "");
  return token;
}

async function firstToken() {
  for (let delay = 1000; ; delay = Math.min(2 * delay, 60_000)) {
    try {
      return await getToken();
    } catch (error) {
      console.info(`notices.js: ${error.message}`);
      await new Promise((resolve) => setTimeout(resolve, delay));
    }
  }
}

// The server verifies the token; the page only needs the name.
function userOf(token) {
  const text = atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"));
  return JSON.parse(new TextDecoder().decode(Uint8Array.from(text, (c) => c.charCodeAt(0)))).sub;
}

async function start() {
  if (!tokenUrl) throw new Error("notices.js: its script element needs data-token-url");
  const token = await firstToken();
  if (!token) return;
  user = userOf(token);
  document.body.append(host);
  server = connect({ token, getToken, share: user });
  server.onState(showState);
  for (const channel of ["notices:all", `notices:#${user}`]) {
    const handlers = { onReset: () => forget(channel), onGap: () => (gap.hidden = false) };
    watch(channel, (event) => arrived(channel, event), handlers);
  }
  watch(`read:#${user}`, wasRead, { onReset: () => readIds.clear() });
}

tabs.onmessage = ({ data }) => {
  if (server && data !== user) end();
};

// The page is as it was before.
function end() {
  server.close();
  isComplete = false;
  host.remove();
  for (const shown of desktop.values()) shown.close();
  setBadge("");
}

function watch(channel, onEvent, handlers) {
  const onState = ({ state, reason }) => {
    if (state !== "live" && server.state === "live") tell(`${channel}: ${reason}`);
  };
  const watched = server.watch(channel, onEvent, { last: MOST, onState, ...handlers });
  // The answer comes after the retained events, which are all that the page wants to know.
  const answered = watched.more(1).catch(() => {});
  answered.then(() => completed(channel));
}

function completed(channel) {
  complete.add(channel);
  isComplete = complete.size === 3;
  update();
}

// --- notices ---------------------------------------

function arrived(channel, { data, offset, time }) {
  if (typeof data?.title !== "string") return;
  const severity = SEVERITIES.includes(data.severity) ? data.severity : "info";
  const notice = {
    id: `${channel} ${offset}`,
    channel,
    severity,
    title: data.title.slice(0, 200),
    text: typeof data.text === "string" ? data.text.slice(0, 1000) : "",
    url: linkOf(data.url),
    time,
  };
  notice.row = rowOf(notice);
  notices.set(notice.id, notice);
  const older = [...list.children].find((row) => Number(row.dataset.time) <= time);
  list.insertBefore(notice.row, older ?? null);
  if (notices.size > MOST) drop(list.lastElementChild.dataset.id);
  update();
  if (isComplete && isUnread(notice)) {
    showToast(notice);
    showOnDesktop(notice);
  }
}

// Only of http: a link must not be a script.
function linkOf(text) {
  if (typeof text !== "string" || text === "" || !URL.canParse(text, location.href)) return "";
  const url = new URL(text, location.href);
  return /^https?:$/.test(url.protocol) ? url.href : "";
}

function wasRead({ data }) {
  if (typeof data?.until === "number") readUntil = Math.max(readUntil, data.until);
  if (typeof data?.id === "string") readIds.add(data.id);
  update();
}

const isUnread = ({ id, time }) => time > readUntil && !readIds.has(id);

function drop(id) {
  notices.get(id)?.row.remove();
  notices.delete(id);
  readIds.delete(id);
  desktop.get(id)?.close();
  desktop.delete(id);
}

function forget(channel) {
  for (const notice of [...notices.values()]) if (notice.channel === channel) drop(notice.id);
  gap.hidden = true;
  update();
}

async function markRead(data) {
  try {
    await server.call("read", data);
  } catch (error) {
    tell(`Not marked as read: ${error.message}`);
  }
}

// --- what the page shows ---------------------------------------

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function bell() {
  const made = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const svg = made("svg", { viewBox: "0 0 24 24", width: 24, height: 24, "aria-hidden": "true" });
  const shape = "M12 3a6 6 0 0 0-6 6v4l-2 4h16l-2-4V9a6 6 0 0 0-6-6Zm-2.5 16a2.5 2.5 0 0 0 5 0Z";
  svg.append(made("path", { d: shape, fill: "currentColor" }));
  return svg;
}

const host = make("div", { id: "pushserver-notices" });
const count = make("span", { className: "count", hidden: true });
const opener = make("button", { className: "opener", type: "button", onclick: toggle }, bell(), count);
opener.ariaLabel = "Notifications";
const heading = make("h2", { textContent: "Notifications", tabIndex: -1 });
const closer = make("button", { type: "button", textContent: "Close", onclick: toggle });
const all = make("button", { type: "button", textContent: "Mark all as read", onclick: markAll });
const state = make("p", { className: "quiet" });
const permission = make("p", { className: "quiet" });
const asking = make("button", { type: "button", textContent: "Show on the desktop", onclick: askPermission });
const gap = make("p", { className: "quiet", textContent: "Some older notices are missing.", hidden: true });
const empty = make("p", { className: "quiet", textContent: "There are no notices." });
const list = make("ol");
const panel = make(
  "section",
  { className: "panel", hidden: true, ariaLabel: "Notifications" },
  make("div", { className: "head" }, heading, closer),
  make("div", { className: "head" }, all, asking),
  ...[state, permission, gap, empty, list],
);
// Regions that a screen reader reads aloud when something is added: one soon, the other at once.
const polite = make("div", { role: "status" });
const urgent = make("div", { role: "alert" });
const toasts = make("div", { className: "toasts" }, urgent, polite);
const root = host.attachShadow({ mode: "open" });
root.append(panel, toasts, opener);
root.addEventListener("keydown", ({ key }) => {
  if (key === "Escape" && !panel.hidden) toggle();
});

function toggle() {
  panel.hidden = !panel.hidden;
  opener.ariaExpanded = String(!panel.hidden);
  (panel.hidden ? opener : heading).focus();
}

function update() {
  if (!isComplete) return;
  let unread = 0;
  for (const notice of notices.values()) {
    const isNew = isUnread(notice);
    unread += isNew;
    notice.row.className = `${notice.severity} ${isNew ? "unread" : ""}`;
    notice.row.querySelector("button").hidden = !isNew;
    if (!isNew) removeTraces(notice.id);
  }
  count.textContent = unread > 99 ? "99+" : String(unread);
  count.hidden = unread === 0;
  opener.ariaLabel = unread === 0 ? "Notifications" : `Notifications, ${unread} unread`;
  all.hidden = unread === 0;
  empty.hidden = notices.size > 0;
  setBadge(unread === 0 ? "" : `(${unread}) `);
}

function removeTraces(id) {
  for (const toast of toasts.querySelectorAll(".toast")) if (toast.dataset.id === id) toast.remove();
  desktop.get(id)?.close();
  desktop.delete(id);
}

// The page may change its title itself.
function setBadge(text) {
  const title = document.title.startsWith(badge) ? document.title.slice(badge.length) : document.title;
  badge = text;
  if (document.title !== badge + title) document.title = badge + title;
}

new MutationObserver(() => {
  if (!document.title.startsWith(badge)) setBadge(badge);
}).observe(document.head, { subtree: true, childList: true, characterData: true });

function wordsOf({ severity, title, text, url }) {
  const name = url ? make("a", { href: url, textContent: title }) : make("b", { textContent: title });
  const label = make("span", { className: "severity", textContent: severity });
  const parts = [label, make("span", { className: "title", dir: "auto" }, name)];
  if (text) parts.push(make("p", { textContent: text, dir: "auto" }));
  return parts;
}

function rowOf(notice) {
  const date = new Date(notice.time);
  const time = make("time", { dateTime: date.toISOString(), textContent: date.toLocaleString() });
  const button = make("button", { type: "button", textContent: "Mark as read" });
  button.ariaLabel = `Mark as read: ${notice.title}`;
  button.onclick = async () => {
    await markRead({ id: notice.id });
    if (root.activeElement === null || root.activeElement === button) heading.focus();
  };
  const row = make("li", {}, ...wordsOf(notice), make("div", { className: "head" }, time, button));
  Object.assign(row.dataset, { id: notice.id, time: notice.time });
  return row;
}

async function markAll() {
  await markRead({ until: Math.max(...[...notices.values()].map(({ time }) => time)) });
  heading.focus();
}

function showToast(notice) {
  const toast = make("div", { className: `toast ${notice.severity}` }, ...wordsOf(notice));
  toast.dataset.id = notice.id;
  const isCritical = notice.severity === "critical";
  (isCritical ? urgent : polite).append(toast);
  const shown = toasts.querySelectorAll(".toast");
  if (shown.length > MOST_TOASTS) (polite.firstElementChild ?? shown[0]).remove();
  if (!isCritical) setTimeout(() => toast.remove(), TOAST_MS); // it stays in the panel
}

function showState({ state: now, reason }) {
  const words = { live: "", connecting: "Connecting…", reconnecting: `Connecting again: ${reason}…` };
  tell(words[now] ?? `No connection: ${reason}`);
  if (now === "closed" && isLoggedOut) end();
  opener.classList.toggle("away", now !== "live");
}

function tell(text) {
  state.textContent = text;
}

// --- notifications of the browser ---------------------------------------

function showPermission() {
  const isPossible = "Notification" in window && isSecureContext;
  const now = isPossible ? Notification.permission : "impossible";
  asking.hidden = now !== "default";
  permission.textContent = {
    default: "",
    granted: "New notices are shown on the desktop too.",
    denied: "This browser blocks desktop notifications of this site. You can allow them in its settings.",
    impossible: "This browser shows no desktop notifications of this page; it may need https.",
  }[now];
}

async function askPermission() {
  await Notification.requestPermission();
  showPermission();
}

function showOnDesktop({ id, title, text, severity }) {
  const isSeen = document.visibilityState === "visible" && document.hasFocus();
  const isPossible = "Notification" in window && Notification.permission === "granted";
  if (isSeen || !isPossible || desktop.size >= MOST_TOASTS) return;
  try {
    // Of several tabs with the same tag, the browser shows one.
    const shown = new Notification(title, { body: text, tag: id, requireInteraction: severity === "critical" });
    desktop.set(id, shown);
    shown.onclose = () => desktop.delete(id);
    shown.onclick = () => {
      window.focus();
      if (panel.hidden) toggle();
    };
  } catch {
    permission.textContent = "This browser shows no desktop notifications of pages.";
  }
}

showPermission();
// Where the browser tells a change, as in its settings.
navigator.permissions
  ?.query({ name: "notifications" })
  .then((status) => (status.onchange = showPermission))
  .catch(() => {});

// --- the look: a sheet that a Content-Security-Policy of the page does not forbid ----------------

const sheet = new CSSStyleSheet();
sheet.replaceSync(`
:host {
  all: initial; position: fixed; right: 1rem; bottom: 1rem; z-index: 2147483000;
  color-scheme: light; font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b;
  --paper: #fff; --ink: #1b1b1b; --quiet: #595959; --line: #8c8c8c; --accent: #0b57d0; --on-accent: #fff;
  --info: #0b57d0; --success: #14713a; --warning: #8a5a00; --critical: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :host {
    color-scheme: dark; color: #eee;
    --paper: #1d2026; --ink: #eee; --quiet: #b3b3b3; --line: #777; --accent: #a8c7fa; --on-accent: #062e6f;
    --info: #a8c7fa; --success: #7ddc9b; --warning: #f2c46d; --critical: #ffb4ab;
  }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
p, h2, ol { margin: 0; padding: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.125rem; }
button {
  padding: .125rem .5rem; border: 1px solid var(--line); border-radius: .5rem; font: inherit; font-size: .875rem;
  background: var(--paper); color: var(--accent); cursor: pointer;
}
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
h2:focus { outline: none; }
.opener {
  position: relative; float: right; width: 3rem; height: 3rem; padding: .6rem; border-radius: 50%;
  background: var(--accent); color: var(--on-accent); box-shadow: 0 2px 8px #0006;
}
.opener.away { opacity: .75; }
.count {
  position: absolute; top: -.25rem; right: -.25rem; min-width: 1.5rem; padding: 0 .375rem; border-radius: .75rem;
  background: #b3261e; color: #fff; font-weight: 600;
}
.panel, .toast { border: 1px solid var(--line); border-radius: .75rem; background: var(--paper); color: var(--ink); }
.panel, .toasts { position: fixed; right: 1rem; bottom: 4.5rem; width: min(24rem, 100vw - 2rem); }
.panel { max-height: min(36rem, 100vh - 6rem); padding: .75rem; overflow-y: auto; box-shadow: 0 4px 24px #0006; }
.toasts { max-height: calc(100vh - 5.5rem); overflow-y: auto; }
.panel:not([hidden]) + .toasts { clip-path: inset(50%); } /* still read aloud */
.head { display: flex; flex-wrap: wrap; gap: .25rem .75rem; align-items: center; justify-content: space-between; }
.head + .head { margin: .25rem 0; }
.quiet, time { color: var(--quiet); font-size: .875rem; }
ol { list-style: none; }
li { margin-top: .5rem; padding: .375rem .625rem; border-left: 4px solid var(--line); }
.toast { margin-top: .5rem; padding: .5rem .75rem; border-left-width: 6px; box-shadow: 0 2px 8px #0006; }
.toast p { display: -webkit-box; overflow: hidden; -webkit-box-orient: vertical; -webkit-line-clamp: 3; } /* the panel has all */
.severity { margin-right: .5rem; font-size: .75rem; font-weight: 600; text-transform: uppercase; }
li.unread .title { font-weight: 600; }
li:not(.unread) b { font-weight: 400; }
.toast, li.unread { border-left-color: var(--own); }
.info { --own: var(--info); } .success { --own: var(--success); }
.warning { --own: var(--warning); } .critical { --own: var(--critical); }
.severity { color: var(--own, var(--quiet)); }
`);
root.adoptedStyleSheets = [sheet];

await start();
