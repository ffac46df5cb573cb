// The live page of one channel or several: connects the parts and schedules the drawing.

import { connect } from "../pushserver.js";
import { Choosing } from "./choosing.js";
import { showCommands } from "./commands.js";
import { attachCopyButtons } from "./copying.js";
import { element, setText } from "./dom.js";
import { Drawing } from "./drawing.js";
import { fieldPicker, Fields } from "./fields.js";
import { Graph } from "./graph.js";
import { Held } from "./held.js";
import { List } from "./list.js";
import { askServer, Keeper, Login } from "./login.js";
import { findNames, nearest } from "./names.js";
import { Points } from "./points.js";
import { Publishing } from "./publishing.js";
import { Raw } from "./raw.js";
import { Speaker } from "./speaker.js";
import { combinedState, emptyText, gapText, noneText, StateLine, stateText } from "./state.js";
import { Table } from "./table.js";
import { Tally } from "./tally.js";
import { ago, clock, fullTime, rate } from "./times.js";
import { Trouble } from "./trouble.js";
import { loadPlot } from "./uplot.js";
import { formatNumber, numericLeaves, spokenText } from "./values.js";
import { Whole } from "./whole.js";

const MAX_LINES = 8;
const MOST_NAMES = 1000;
const SUGGESTIONS = 3;
const LEAST_LAST = 10; // events of a channel at the start
const MAX_POINTS = 5000; // the most that a page can redraw in a frame
const TITLE_MS = 1000;
const NOTICE_MS = 60_000;
const SILENT_MS = 10_000;
const SILENT_INTERVALS = 5;
const AWAY_PIXELS = 8;
const FAST_PER_SECOND = 3; // from here on rows are not animated

const byId = (id) => document.getElementById(id);

class LivePage {
  constructor(settings) {
    this.settings = settings;
    const { channels, several } = settings;
    this.held = new Held(settings.last * channels.length);
    this.atPause = []; // those that were held then
    this.points = new Points(settings.historySize, MAX_LINES);
    this.pointsAreStale = false; // they have to be made again from those that are held
    this.fields = new Fields();
    this.choosing = new Choosing(byId, this.fields, (name) => this.chosen(name));
    this.pick = fieldPicker(this.choosing.choice.fields);
    this.tally = new Tally();
    this.paused = false;
    this.missedWhilePaused = 0;
    this.states = new Map(); // by channel
    this.counts = new Map(); // of watchers, by channel
    this.gaps = new Set(); // the channels whose next event follows missing ones
    this.drawing = new Drawing(() => this.draw());
    this.titledAt = -Infinity;
    const whole = new Whole(byId("whole"));
    const open = (publication) => whole.open(publication);
    this.list = new List(byId("list"), this.choosing.choice.rows, open, {
      pick: this.pick,
      format: formatNumber,
      several,
    });
    this.table = new Table(byId("table"), byId("table-more"), open, several);
    this.raw = new Raw(byId("raw"), open, several);
    this.raw.restart(this.pick);
    this.graph = new Graph(
      {
        graph: byId("graph"),
        legend: byId("legend"),
        at: byId("legend-at"),
        more: byId("legend-more"),
      },
      this.points,
    );
    this.noGraph = "";
    byId("live").classList.toggle("several", several);
    this.speaker = new Speaker(byId("spoken"));
    this.login = new Login(byId, new Keeper(settings.rootUrl), {
      ask: (value) => this.askAll(value),
      onChange: (continues) => this.loggedIn(continues),
      onWarning: (text) => this.notice(text, true),
    });
    this.publishing = new Publishing(byId, channelUrl, () => this.login.value);
    this.trouble = settings.statusUrl
      ? new Trouble(byId, settings.statusUrl, (...parts) => whole.show(...parts))
      : null;
    this.stateLine = new StateLine(
      { line: byId("state"), text: byId("state-text"), button: byId("state-button") },
      () => this.server.retryNow(),
    );
  }

  start() {
    byId("pause").addEventListener("click", () => this.togglePause());
    byId("list-box").addEventListener("scroll", () => this.scrolled(), { passive: true });
    byId("notice-close").addEventListener("click", () => this.notice(""));
    byId("notice-action").addEventListener("click", () => {
      this.notice("");
      this.login.focus();
    });
    document.addEventListener("themechange", () => this.graph.restyle());
    document.addEventListener("visibilitychange", () => this.visibilityChanged());
    setInterval(() => this.showAge(), 1000);
    this.graph.choose(this.isRight(), this.choosing.choice.seconds);
    if (this.choosing.problem) this.notice(`${this.choosing.problem}.`);
    this.connect();
    if (this.login.value) this.ask(); // it may have expired since it was typed
    this.trouble?.begin();
    byId("live").dataset.started = "true";
  }

  async loadGraph() {
    if (this.graphAsked) return;
    this.graphAsked = true;
    try {
      this.graph.use(await loadPlot());
    } catch {
      this.noGraph = "No graph: uPlot did not load.";
    }
    this.schedule();
  }

  connect() {
    this.server?.close();
    const { by, text } = this.login.value ?? {};
    const getToken = () => this.login.another();
    const options = { token: { token: text, getToken }, key: { key: text } }[by];
    this.server = connect(this.settings.rootUrl, options ? { ...options, share: false } : undefined);
    const { server } = this;
    this.states.clear();
    this.watches = this.settings.channels.map((channel) => this.watch(server, channel));
  }

  watch(server, channel) {
    return server.watch(channel, (publication) => this.receive(channel, publication), {
      last: this.settings.last,
      onState: (state) => server === this.server && this.showStates(channel, state),
      onGap: (gap) => this.gap(channel, gap),
      onReset: () => this.reset(channel),
      onWatching: (count, names) => this.showWatching(channel, count, names),
    });
  }

  // --- events of the connection ---------------------------------------

  /** Adds one publication, to be drawn later. Cheap: a busy channel has a thousand a second. */
  receive(channel, { data, offset, event, time, live, again }) {
    if (!again) this.tally.add(time, live ? Date.now() : undefined);
    const publication = { channel, event, data, offset, time, follows: this.gaps.delete(channel) };
    this.fields.note(data);
    if (!this.held.add(publication) || this.paused) this.pointsAreStale = true;
    if (!this.pointsAreStale) this.addPoint(publication);
    if (this.paused) this.missedWhilePaused += 1;
    this.schedule();
  }

  addPoint({ channel, data, time, follows }) {
    if (follows) this.points.interrupt();
    const leaves = numericLeaves(this.pick(data));
    const named = ([name, value]) => [`${channel}: ${name}`, value];
    this.points.add(time, this.settings.several ? new Map([...leaves].map(named)) : leaves);
  }

  gap(channel, gap) {
    this.gaps.add(channel);
    const words = gapText(gap);
    this.notice(this.settings.several ? `${channel}: ${words}` : words);
  }

  reset(channel) {
    this.held.remove(channel);
    this.atPause = this.atPause.filter((one) => one.channel !== channel);
    this.pointsAreStale = true;
    this.schedule();
  }

  showWatching(channel, count, names) {
    this.counts.set(channel, count);
    const { channels, several } = this.settings;
    const counts = channels.map((name) => this.counts.get(name) ?? null);
    const known = counts.filter((number) => number !== null);
    const total = known.reduce((sum, number) => sum + number, 0);
    setText(byId("watching"), known.length === 0 ? "–" : total.toLocaleString("en"));
    const each = channels.map((name, index) => `${name} ${counts[index] ?? "–"}`).join(", ");
    setText(byId("watching-names"), several ? each : names);
    byId("watching-names").title = several ? each : names; // a phone shows only the beginning of a long text
  }

  showStates(channel, state) {
    this.states.set(channel, state);
    this.showState(combinedState([...this.states]));
  }

  showState(state) {
    const before = this.stateLine.state;
    this.stateLine.show(state);
    if (state.state === "live") {
      this.everLive = true;
      byId("live").classList.remove("refused");
      this.schedule(); // the page now knows whether the channel is empty
      this.trouble?.begin();
    }
    const isNew = state.state !== before.state;
    if (isNew && state.state === "live" && this.login.facts) this.showAccess();
    else if (isNew && (state.state === "closed" || state.state === "live")) this.ask();
    if (isNew || state.reason !== before.reason) {
      this.speaker.say(stateText({ ...state, retryAt: null }, 0));
      this.showTitle();
    }
  }

  // --- the reader's token or key ---------------------------------------

  /** What the reader may do with this token or key: in one channel at least. */
  async askAll(value) {
    const { channels } = this.settings;
    const answers = await Promise.all(
      channels.map((channel) => askServer(`${channelUrl(channel)}/permissions`, value)),
    );
    const good = answers.filter(({ ok }) => ok);
    if (good.length < answers.length) return answers.find(({ ok }) => !ok);
    const contents = good.map(({ content }) => content);
    const readable = contents.find(({ subscribe }) => subscribe.allowed) ?? contents[0];
    const content = {
      ...readable,
      accepts: [...new Set(contents.flatMap(({ accepts }) => accepts))],
      publishable: channels.filter((_, index) => contents[index].publish.allowed),
    };
    return { ok: true, status: 200, content };
  }

  /** Asks the server what this reader may do, and shows the fields for that. */
  async ask() {
    const { value } = this.login;
    const { ok, status, content } = await this.login.ask(value);
    if (value !== this.login.value) return;
    if (value && status === 401) {
      // It has expired, or is not one of the server's any more.
      this.login.forget(content.error.message);
      this.loggedIn(false);
    } else if (ok) {
      this.login.learn(content);
      this.showAccess();
    }
  }

  loggedIn(continues) {
    this.notice("");
    if (continues && this.stateLine.state.state !== "closed") return this.showAccess();
    this.everLive = false;
    this.tally = new Tally();
    this.held.clear();
    this.atPause = [];
    this.pointsAreStale = true;
    this.schedule();
    this.connect();
  }

  showAccess() {
    const { publishable, accepts } = this.login.facts;
    const isRefused = this.stateLine.state.state === "closed";
    // Without an event that this reader may see, only the field is of use.
    byId("live").classList.toggle("refused", isRefused && !this.everLive);
    this.login.show(accepts, isRefused);
    this.publishing.show(publishable);
  }

  notice(text, asksLogin = false) {
    clearTimeout(this.noticeTimer);
    byId("notice-box").hidden = text === "";
    byId("notice-action").hidden = !asksLogin;
    setText(byId("notice"), text);
    if (!text) return;
    this.speaker.say(text);
    if (!asksLogin) this.noticeTimer = setTimeout(() => this.notice(""), NOTICE_MS);
  }

  // --- drawing ---------------------------------------

  schedule() {
    if (document.hidden) this.showTitle(); // a hidden page gets no frames, but its title is visible
    this.drawing.schedule();
  }

  draw() {
    this.showCounts();
    this.showAge();
    this.showPause();
    this.choosing.update();
    if (!this.paused) this.drawEvents();
  }

  drawEvents() {
    if (this.pointsAreStale) this.makePoints(this.held.all);
    byId("list").classList.toggle("fast", (this.tally.rate ?? 0) > FAST_PER_SECOND);
    this.foldGraph(); // first, as the plot takes the space that is left
    this.renderRows();
    this.graph.render();
    this.showEmptiness();
    this.speakNewest();
    this.showTitle();
  }

  makePoints(publications) {
    this.pointsAreStale = false;
    this.points.clear();
    for (const publication of publications) this.addPoint(publication);
  }

  // While it is paused, the page stays as it was, but can be searched and shown in another way.
  renderRows() {
    const publications = this.paused ? this.atPause : this.held.all;
    const { view, fields, filter, seconds, rows } = this.choosing.choice;
    const has = fields.length > 0 ? (data) => this.pick(data) !== undefined : null;
    const { shown, found } = this.held.search(publications, { filter, seconds, has }, rows);
    if (view === "table") this.table.render(shown, fields.length > 0 ? fields : this.fields.names);
    else if (view === "json") this.raw.render(shown);
    else if (view !== "graph") this.list.render(shown);
    const among = `${found.toLocaleString("en")} of ${publications.length.toLocaleString("en")}`;
    setText(byId("found"), filter || seconds || has ? among : "");
    const isNone = found === 0 && publications.length > 0;
    byId("found-none").hidden = !isNone;
    if (isNone) {
      const lacks = has !== null && !publications.some(({ data }) => has(data));
      setText(byId("found-none"), noneText(lacks ? fields : []));
    }
  }

  showCounts() {
    setText(byId("events-seen"), this.tally.count.toLocaleString("en"));
  }

  // Hides the graph beside the list if there are publications but no numbers. On an empty channel it is
  // shown, so that nothing moves when the first number comes.
  foldGraph() {
    const { view } = this.choosing.choice;
    if (this.points.length > 0) {
      byId("graph-panel").hidden = false;
      if (view === "overview" || view === "graph") this.loadGraph(); // others need no uPlot
    } else if (this.held.newest) {
      byId("graph-panel").hidden = view === "overview";
    }
  }

  // Shown only once the channel is known to be empty.
  showEmptiness() {
    const isEmpty = !this.held.newest && this.everLive;
    if (isEmpty) setText(byId("empty-title"), emptyText(this.settings, this.tally.count));
    byId("empty").hidden = !isEmpty;
    if (isEmpty && !this.suggested) this.suggest();
    setText(byId("graph-nothing"), this.noGraph || this.withoutPoints());
  }

  withoutPoints() {
    if (!this.everLive || this.points.length > 0) return "";
    if (!this.held.newest) return "The graph begins with the first number.";
    const { fields } = this.choosing.choice;
    return `No numbers in these events${fields.length > 0 ? ` at ${fields.join(", ")}` : ""}.`;
  }

  // Names the existing channels whose names are most similar: this one may be misspelt.
  async suggest() {
    this.suggested = true;
    const { several } = this.settings;
    if (several) return;
    const [channel] = this.settings.channels;
    const { root } = byId("live").dataset;
    const names = (await findNames("", MOST_NAMES)).filter((name) => name !== channel);
    const links = nearest(channel, names, SUGGESTIONS).flatMap((name, index) => {
      const link = element("a", "", name);
      link.href = `${root}/channels/${encodeURIComponent(name)}`;
      return index > 0 ? [", ", link] : [link];
    });
    byId("near-names").replaceChildren(...links);
    byId("near").hidden = links.length === 0;
  }

  showAge() {
    const { last } = this.tally;
    if (last === null) return;
    const lastEvent = byId("last-event");
    const now = Date.now();
    const instant = new Date(last).toISOString();
    if (lastEvent.dateTime !== instant) {
      lastEvent.dateTime = instant;
      lastEvent.title = fullTime(last);
    }
    setText(lastEvent, clock(last, now));
    const age = this.tally.age(now);
    setText(byId("last-age"), ago(age));
    setText(byId("rate"), this.rateText(age));
  }

  // No rate once the channel is silent.
  rateText(age) {
    const perSecond = this.tally.rate;
    const silent =
      perSecond === null || age > Math.max(SILENT_MS, (SILENT_INTERVALS * 1000) / perSecond);
    return silent ? "" : rate(perSecond);
  }

  speakNewest() {
    const { newest } = this.held;
    if (!newest || newest === this.spoken) return;
    this.spoken = newest;
    this.speaker.value(`Newest: ${spokenText(newest.data)}`, performance.now());
    this.graph.describe();
  }

  // The newest number of a channel with one line, else the channel's name; at most once a second.
  showTitle() {
    if (this.titleTimer) return;
    const wait = TITLE_MS - (performance.now() - this.titledAt);
    this.titleTimer = setTimeout(() => this.writeTitle(), Math.max(0, wait));
  }

  writeTitle() {
    this.titleTimer = null;
    this.titledAt = performance.now();
    const title = this.titleText();
    if (document.title !== title) document.title = title;
  }

  titleText() {
    const { site } = this.settings;
    const channel = this.settings.channels.join(", ");
    if (this.stateLine.state.state === "reconnecting") return `${channel} (reconnecting)`;
    if (this.stateLine.state.state === "closed") return `${channel} (closed)`;
    const names = this.points.names;
    if (names.length !== 1) return `${channel} · ${site}`;
    return `${this.graph.latest(names[0])} · ${channel}`;
  }

  // --- controls of the reader ---------------------------------------

  /** The reader has chosen what to see. */
  chosen(name) {
    const { fields, filter, rows, seconds } = this.choosing.choice;
    const publications = this.paused ? this.atPause : this.held.all;
    if (name === "fields") this.pick = fieldPicker(fields);
    if (name === "fields" || this.pointsAreStale) this.makePoints(publications);
    this.graph.choose(this.isRight(), seconds);
    this.list.restart(rows, this.pick);
    this.table.restart();
    this.raw.restart(this.pick);
    this.drawEvents();
    if (this.paused) this.pointsAreStale = true; // by those that are held now
    if (name === "filter") this.speaker.say(byId("found").textContent || (filter ? "None" : "All events"));
  }

  /** Whether a line has the second axis, as a function of its name. */
  isRight() {
    const right = new Set(this.choosing.choice.right);
    const { several } = this.settings;
    return (line) => right.has(several ? line.slice(line.indexOf(": ") + 2) : line);
  }

  togglePause(byScrolling = false) {
    this.paused = !this.paused;
    this.byScrolling = this.paused && byScrolling;
    this.atPause = this.paused ? [...this.held.all] : [];
    this.missedWhilePaused = 0;
    if (!this.paused) byId("list-box").scrollTop = 0;
    this.drawing.soon();
  }

  // Rows do not move away from somebody who reads older ones.
  scrolled() {
    const isAway = byId("list-box").scrollTop > AWAY_PIXELS;
    if (isAway !== this.paused && (isAway || this.byScrolling)) this.togglePause(true);
  }

  showPause() {
    const button = byId("pause");
    const missed = this.missedWhilePaused;
    setText(
      button,
      !this.paused
        ? "Pause"
        : missed > 0
          ? `Follow (${missed.toLocaleString("en")} new)`
          : "Follow",
    );
  }

  visibilityChanged() {
    if (document.visibilityState !== "visible") return;
    for (const watch of this.watches) watch.ask();
    this.trouble?.seen();
    // The page is visible again: end a delay that began while it was hidden.
    if (this.stateLine.waiting) this.server.retryNow();
  }
}

const { root } = byId("live").dataset;

function absolute(path) {
  return new URL(`${root}/${path}`, window.location.href).href;
}

function channelUrl(channel) {
  return absolute(`channels/${encodeURIComponent(channel)}`);
}

function readSettings({ dataset }) {
  const { site = "pushserver" } = dataset;
  const channels = dataset.channels.split(" ");
  const several = channels.length > 1;
  const historySize = Math.min(MAX_POINTS, Number(dataset.historySize));
  const together = channels.map((channel) => `channel=${encodeURIComponent(channel)}`).join("&");
  return {
    channels,
    several,
    site,
    historySize,
    last: Math.max(Math.floor(historySize / channels.length), LEAST_LAST),
    rootUrl: absolute(""),
    url: several ? absolute(`events?${together}`) : channelUrl(channels[0]),
    statusUrl: several ? "" : absolute(`status?channel=${encodeURIComponent(channels[0])}`),
  };
}

const settings = readSettings(byId("live"));
showCommands({ ...settings, channel: settings.channels[0] });
attachCopyButtons(document);
new LivePage(settings).start();
