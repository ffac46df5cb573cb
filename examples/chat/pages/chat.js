import { connect } from "./static/pushserver.js";

const FIRST = 50; // messages at first, and how many more each "Older messages" brings
const MOST = 1000; // messages in the page
const TYPING_MS = 3000; // between two words that this user is typing
const TYPED_MS = 5000; // how long "is typing" is shown

const byId = (id) => document.getElementById(id);
const [talk, messages, text] = ["talk", "messages", "text"].map(byId);
const title = document.title;

let server = null;
let watch = null;
let me = null; // {name, person, moderator}
let draft = ""; // the id of the message that is being written
let toldAt = 0; // when others were last told that this user is typing
let unread = 0;
let newest = 0; // the time of the newest message
let following = true; // whether the page stays at the newest message
let top = 0; // where the messages were scrolled to
let frame = null; // in which the page shows what has come in
let cut = false; // whether older messages have left the page
let ahead = []; // the event before the older ones that the page has, if there is one

const rows = new Map(); // by offset
const removed = new Set(); // offsets of messages that a moderator has removed
const namesakes = new Map(); // by name, the persons who have it, in the order in which they were seen
const typing = new Map(); // by name, the timer that ends it

// --- what the browser remembers; its storage may be denied ---------------------------------------

function recall(storage, key) {
  try {
    return window[storage].getItem(`chat ${key}`) ?? "";
  } catch {
    return "";
  }
}

function remember(storage, key, value) {
  try {
    window[storage].setItem(`chat ${key}`, value);
  } catch {
    // known until the page is closed
  }
}

function randomText() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Proves that this browser is the one that has had the name before.
const secret = recall("localStorage", "secret") || randomText();
remember("localStorage", "secret", secret);

// --- coming and going ---------------------------------------

function enter(name, key) {
  clear();
  me = null;
  draft = randomText();
  const ours = connect({ data: { name, secret }, ...(key && { key }) });
  server = ours;
  ours.onState((state) => server === ours && changed(name, key, state));
}

async function changed(name, key, { state, reason }) {
  if (state === "closed") leave(`You are out: ${reason.replace(/ \(\d+\)$/, "")}.`); // without the code
  if (state === "connecting") tell("Connecting…");
  if (state === "reconnecting") tell(`The connection is lost${reason && `: ${reason}`}. Trying again…`);
  if (state !== "live") return;
  if (watch) return tell("Connected.");
  const ours = server;
  try {
    me = await ours.call("me");
  } catch (error) {
    return tell(`Not inside: ${error.message}.`); // the next connection asks again
  }
  if (server !== ours || watch) return;
  remember("localStorage", "name", name);
  remember("sessionStorage", "key", key);
  inside();
  tell("Connected.");
}

function inside() {
  numberOf(me.name, me.person);
  show(true);
  watch = server.watch("said", onSaid, { last: FIRST, onGap, onReset, onWatching, onState: refused });
  server.watch("typing", onTyping, { last: 0 });
  lookForOlder();
}

function refused({ state, reason }) {
  if (state === "closed") tell(`The messages cannot be read: ${reason}.`);
}

function leave(reason) {
  const ours = server;
  server = null;
  watch = null;
  ours?.close();
  setUnread(0);
  show(false);
  tell(reason);
}

function show(isInside) {
  for (const id of ["room", "say", "leave"]) byId(id).hidden = !isInside;
  byId("enter").hidden = isInside;
  if (!isInside) byId("people").textContent = "Enter your name to join.";
  byId("typing").textContent = "";
  (isInside ? text : byId("name")).focus();
}

function tell(state) {
  byId("state").textContent = state;
}

function onWatching(count, names) {
  const people = names || (count === null ? "…" : `${count} people`);
  byId("people").textContent = `Here: ${people}`;
}

// --- messages ---------------------------------------

function onSaid(event) {
  const { data, live, time } = event;
  if (event.event === "removed") return hide(data?.offset);
  if (typeof data?.text !== "string") return;
  const isOwn = data.person === me.person;
  const read = lastRead();
  const isRead = live ? following && isLookedAt() : read === 0 || time <= read;
  if (!isOwn && !isRead) markUnread();
  messages.append(rowOf(event));
  newest = time;
  stopTyping(data.name);
  if (isOwn && live) {
    following = true;
    setUnread(0);
  }
  if (following && rows.size > MOST) cutOldest();
  frame ??= requestAnimationFrame(settle);
}

function rowOf({ data, offset, time }) {
  const row = element("p", data.person === me.person ? "own" : "");
  const name = element("b");
  const bdi = element("bdi", "", String(data.name ?? "?").slice(0, 60));
  name.append(bdi);
  const number = numberOf(data.name, data.person);
  if (number > 1) name.append(` (${number})`);
  row.append(name, timeOf(time));
  row.dataset.offset = offset;
  rows.set(offset, row);
  if (removed.has(offset)) return withoutText(row);
  row.append(element("span", "text", data.text.slice(0, 2000)));
  if (me.moderator) row.append(...controls(data, offset));
  return row;
}

function controls({ name, person }, offset) {
  const order = (label, event, data) => {
    const button = element("button", "quiet", label);
    button.ariaLabel = `${label} ${label === "Remove" ? "this message of" : ""} ${name}`;
    button.onclick = () => server?.call(event, data).catch((error) => tell(`Not done: ${error.message}.`));
    return button;
  };
  const remove = order("Remove", "remove", offset);
  return person === me.person ? [remove] : [remove, order("Put out", "put out", { name, person })];
}

// Names are free to take, so two people who have had the same one get different numbers.
function numberOf(name, person) {
  const persons = namesakes.get(name) ?? [];
  namesakes.set(name, persons);
  if (!persons.includes(person)) persons.push(person);
  return persons.indexOf(person) + 1;
}

function hide(offset) {
  removed.add(offset);
  const row = rows.get(offset);
  if (row) withoutText(row);
}

function withoutText(row) {
  for (const child of [...row.children].slice(2)) child.remove(); // after the name and the time
  row.append(element("span", "text note", "removed by a moderator"));
  return row;
}

function onGap({ missed }) {
  const count = missed === null ? "Some" : missed;
  const text = count === 1 ? "One message is missing here." : `${count} messages are missing here.`;
  messages.append(element("p", "note", text));
}

function onReset() {
  clear();
  lookForOlder();
}

function clear() {
  messages.replaceChildren();
  rows.clear();
  removed.clear();
  following = true;
  cut = false;
  ahead = [];
  byId("older").hidden = true;
  byId("beginning").hidden = true;
  setUnread(0);
}

function cutOldest() {
  const row = messages.firstElementChild;
  rows.delete(Number(row.dataset.offset));
  row.remove();
  cut = true;
  showOlder(true);
}

byId("older").onclick = async () => {
  // What has left the page is asked for again, by a page that begins with the newest messages.
  if (cut) return location.reload();
  byId("older").disabled = true;
  try {
    addOlder(await older(FIRST));
  } catch (error) {
    tell(`No older messages: ${error.message}.`);
  }
  byId("older").disabled = false;
};

// Events for the page. One more is asked for, so that the page knows whether there are older ones.
async function older(count) {
  const before = ahead;
  const asked = count || 1;
  const found = await watch.more(asked);
  if (ahead !== before) return []; // the page begins anew
  const hasMore = found.length === asked;
  found.push(...ahead);
  ahead = hasMore ? found.splice(0, 1) : [];
  showOlder(hasMore);
  return found;
}

function lookForOlder() {
  older(0).catch(() => showOlder(true));
}

function showOlder(hasMore) {
  byId("older").hidden = !hasMore;
  byId("beginning").hidden = hasMore;
}

function addOlder(found) {
  for (const { event, data } of found) if (event === "removed") hide(data?.offset);
  const older = found.filter(({ event, data }) => event !== "removed" && typeof data?.text === "string");
  const height = talk.scrollHeight;
  talk.ariaBusy = "true"; // not read aloud
  messages.prepend(...older.map(rowOf));
  talk.scrollTop += talk.scrollHeight - height;
  talk.ariaBusy = "false";
}

// --- what was not read yet ---------------------------------------

const isAtEnd = () => talk.scrollTop + talk.clientHeight > talk.scrollHeight - 40;
const isLookedAt = () => document.visibilityState === "visible" && document.hasFocus();
const lastRead = () => Number(recall("localStorage", "read"));

function markUnread() {
  if (unread === 0) {
    messages.querySelector(".new")?.remove();
    messages.append(element("p", "new", "New messages"));
  }
  setUnread(unread + 1);
}

function setUnread(count) {
  unread = count;
  document.title = count > 0 ? `(${count}) ${title}` : title;
  byId("unread").hidden = count === 0;
  byId("unread").textContent = `${count} new ↓`;
}

// Shows the first message that was not read, or else the newest one.
function settle() {
  frame = null;
  if (following) {
    const first = unread > 0 && messages.querySelector(".new");
    if (first) first.scrollIntoView({ block: "start" });
    else talk.scrollTop = talk.scrollHeight;
    following = isAtEnd();
    top = talk.scrollTop;
  }
  look();
}

function look() {
  if (!watch || !isLookedAt() || !isAtEnd()) return;
  if (unread > 0) setUnread(0);
  if (newest > lastRead()) remember("localStorage", "read", newest);
}

talk.onscroll = () => {
  // It may be away from the end because of new rows, too, which the page is about to show.
  if (isAtEnd()) following = true;
  else if (talk.scrollTop < top - 1) following = false;
  top = talk.scrollTop;
  look();
};
addEventListener("focus", settle);
document.addEventListener("visibilitychange", settle);
byId("unread").onclick = () => {
  setUnread(0);
  following = true;
  settle();
  text.focus();
};

// --- who is typing ---------------------------------------

function onTyping({ data: name, live }) {
  if (!live || typeof name !== "string") return;
  clearTimeout(typing.get(name));
  typing.set(name, setTimeout(stopTyping, TYPED_MS, name));
  showTyping();
}

function stopTyping(name) {
  clearTimeout(typing.get(name));
  if (typing.delete(name)) showTyping();
}

function showTyping() {
  const names = [...typing.keys()];
  const who = names.length > 3 ? "Several people" : names.join(", ");
  byId("typing").textContent = who && `${who} ${names.length > 1 ? "are" : "is"} typing…`;
}

text.oninput = () => {
  if (Date.now() - toldAt < TYPING_MS || text.value.trim() === "") return;
  toldAt = Date.now();
  server?.send({ event: "typing" }).catch(() => {}); // of no interest later
};

// --- the forms ---------------------------------------

byId("say").onsubmit = async (event) => {
  event.preventDefault();
  const said = text.value;
  if (said.trim() === "") return;
  try {
    await server.call("say", { text: said, id: draft });
  } catch (error) {
    return tell(`Not said: ${error.message}.`); // the text stays, and its id
  }
  draft = randomText();
  toldAt = 0;
  if (text.value === said) text.value = "";
  tell("Connected.");
};

text.onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("say").requestSubmit();
};

byId("enter").onsubmit = (event) => {
  event.preventDefault();
  enter(byId("name").value, byId("key").value);
};

byId("leave").onclick = () => {
  remember("localStorage", "name", "");
  remember("sessionStorage", "key", "");
  leave("You have left.");
};

function element(tag, className = "", content = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = content;
  return made;
}

function timeOf(time) {
  const date = new Date(time);
  const made = element("time");
  made.dateTime = date.toISOString();
  made.title = date.toLocaleString();
  const today = date.toDateString() === new Date().toDateString();
  made.textContent = today
    ? date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })
    : date.toLocaleString([], { dateStyle: "short", timeStyle: "short" });
  return made;
}

// Someone who has been here before comes in at once.
byId("name").value = recall("localStorage", "name");
byId("key").value = recall("sessionStorage", "key");
if (byId("name").value) enter(byId("name").value, byId("key").value);
else show(false);
