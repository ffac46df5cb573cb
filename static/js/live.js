// The live page of one channel: connects the parts and schedules the drawing.

import { connect } from "../pushserver.js";
import { showCommands } from "./commands.js";
import { attachCopyButtons } from "./copying.js";
import { element, setText } from "./dom.js";
import { Drawing } from "./drawing.js";
import { Graph } from "./graph.js";
import { Held } from "./held.js";
import { List } from "./list.js";
import { askServer, Keeper, Login } from "./login.js";
import { findNames, nearest } from "./names.js";
import { Points } from "./points.js";
import { Publishing } from "./publishing.js";
import { Speaker } from "./speaker.js";
import { gapText, StateLine, stateText } from "./state.js";
import { Tally } from "./tally.js";
import { ago, clock, fullTime, rate } from "./times.js";
import { Trouble } from "./trouble.js";
import { loadPlot } from "./uplot.js";
import { numericLeaves, spokenText } from "./values.js";
import { Whole } from "./whole.js";

const MAX_LINES = 8;
const MOST_NAMES = 1000;
const SUGGESTIONS = 3;
const MAX_POINTS = 5000; // the most that a page can redraw in a frame
const TITLE_MS = 1000;
const NOTICE_MS = 60_000;
const SILENT_MS = 10_000;
const SILENT_INTERVALS = 5;
const FAST_PER_SECOND = 3; // from here on rows are not animated

const byId = (id) => document.getElementById(id);

class LivePage {
  constructor(settings) {
    this.settings = settings;
    this.held = new Held(settings.last);
    this.atPause = []; // those that were held then
    this.filter = "";
    this.points = new Points(settings.historySize, MAX_LINES);
    this.tally = new Tally();
    this.paused = false;
    this.missedWhilePaused = 0;
    this.drawing = new Drawing(() => this.draw());
    this.titledAt = -Infinity;
    const whole = new Whole(byId("whole"));
    this.list = new List(byId("list"), settings.listSize, (publication) => whole.open(publication));
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
    this.speaker = new Speaker(byId("spoken"));
    this.login = new Login(byId, new Keeper(settings.rootUrl), {
      ask: (value) => askServer(settings.permissionsUrl, value),
      onChange: (continues) => this.loggedIn(continues),
      onWarning: (text) => this.notice(text, true),
    });
    this.publishing = new Publishing(byId, settings.url, () => this.login.value);
    this.trouble = new Trouble(byId, settings.statusUrl, (...parts) => whole.show(...parts));
    this.stateLine = new StateLine(
      { line: byId("state"), text: byId("state-text"), button: byId("state-button") },
      () => this.server.retryNow(),
    );
  }

  start() {
    byId("pause").addEventListener("click", () => this.togglePause());
    byId("notice-close").addEventListener("click", () => this.notice(""));
    byId("notice-action").addEventListener("click", () => {
      this.notice("");
      this.login.focus();
    });
    byId("filter").addEventListener("input", ({ target }) => this.filterBy(target.value));
    byId("rows").addEventListener("change", () => this.restartList());
    this.restartList(); // a browser keeps the choice when it reloads the page
    document.addEventListener("themechange", () => this.graph.restyle());
    document.addEventListener("visibilitychange", () => this.visibilityChanged());
    setInterval(() => this.showAge(), 1000);
    this.connect();
    if (this.login.value) this.ask(); // it may have expired since it was typed
    this.trouble.begin();
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
    this.watch((state) => server === this.server && this.showState(state));
  }

  watch(onState) {
    const { channel, last } = this.settings;
    this.channel = this.server.watch(channel, (publication) => this.receive(publication), {
      last,
      onState,
      onGap: (gap) => this.notice(gapText(gap)),
      onReset: () => this.reset(),
      onWatching: (count, names) => {
        setText(byId("watching"), count === null ? "–" : count.toLocaleString("en"));
        setText(byId("watching-names"), names);
        byId("watching-names").title = names; // a phone shows only the beginning of a long text
      },
    });
  }

  // --- events of the connection ---------------------------------------

  /** Adds one publication, to be drawn later. Cheap: a busy channel has a thousand a second. */
  receive({ data, offset, event, time, live, again }) {
    if (!again) this.tally.add(time, live ? Date.now() : undefined);
    this.held.add({ data, offset, event, time });
    this.points.add(time, numericLeaves(data));
    if (this.paused) this.missedWhilePaused += 1;
    this.schedule();
  }

  reset() {
    this.held.clear();
    this.atPause = [];
    this.points.clear();
    this.schedule();
  }

  showState(state) {
    const before = this.stateLine.state;
    this.stateLine.show(state);
    if (state.state === "live") {
      this.everLive = true;
      byId("live").classList.remove("refused");
      this.schedule(); // the page now knows whether the channel is empty
      this.trouble.begin();
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
    this.reset();
    this.connect();
  }

  showAccess() {
    const { publish, accepts } = this.login.facts;
    const isRefused = this.stateLine.state.state === "closed";
    // Without an event that this reader may see, only the field is of use.
    byId("live").classList.toggle("refused", isRefused && !this.everLive);
    this.login.show(accepts, isRefused);
    this.publishing.show(publish.allowed);
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
    if (this.paused) return this.renderList();
    byId("list").classList.toggle("fast", (this.tally.rate ?? 0) > FAST_PER_SECOND);
    this.foldGraph(); // first, as the plot takes the space that is left
    this.renderList();
    this.graph.render();
    this.showEmptiness();
    this.speakNewest();
    this.showTitle();
  }

  // While it is paused, the list stays as it was, but can be searched.
  renderList() {
    const publications = this.paused ? this.atPause : this.held.all;
    const { shown, found } = this.held.search(publications, this.filter, this.list.size);
    this.list.render(shown);
    const among = `${found.toLocaleString("en")} of ${publications.length.toLocaleString("en")}`;
    setText(byId("found"), this.filter ? among : "");
    byId("found-none").hidden = found > 0 || !this.filter;
  }

  showCounts() {
    setText(byId("events-seen"), this.tally.count.toLocaleString("en"));
  }

  // Hides the graph if there are publications but no numbers. On an empty channel it is shown, so
  // that nothing moves when the first number comes.
  foldGraph() {
    if (this.points.length > 0) {
      byId("graph-panel").hidden = false;
      this.loadGraph(); // a channel without numbers needs no uPlot
    } else if (this.held.newest) {
      byId("graph-panel").hidden = true;
    }
  }

  // Shown only once the channel is known to be empty.
  showEmptiness() {
    const isEmpty = !this.held.newest && this.everLive;
    byId("empty").hidden = !isEmpty;
    if (isEmpty && !this.suggested) this.suggest();
    const begins = this.everLive && this.points.length === 0;
    const text = begins ? "The graph begins with the first number." : "";
    setText(byId("graph-nothing"), this.noGraph || text);
  }

  // Names the existing channels whose names are most similar: this one may be misspelt.
  async suggest() {
    this.suggested = true;
    const { channel } = this.settings;
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
    const { channel, site } = this.settings;
    if (this.stateLine.state.state === "reconnecting") return `${channel} (reconnecting)`;
    if (this.stateLine.state.state === "closed") return `${channel} (closed)`;
    const names = this.points.names;
    if (names.length !== 1) return `${channel} · ${site}`;
    return `${this.graph.latest(names[0])} · ${channel}`;
  }

  // --- controls of the reader ---------------------------------------

  filterBy(text) {
    this.filter = text.trim();
    this.restartList();
    this.speaker.say(byId("found").textContent || "All events");
  }

  restartList() {
    this.list.restart(Number(byId("rows").value));
    this.renderList();
  }

  togglePause() {
    this.paused = !this.paused;
    this.atPause = this.paused ? [...this.held.all] : [];
    this.missedWhilePaused = 0;
    this.drawing.soon();
  }

  showPause() {
    const button = byId("pause");
    const missed = this.missedWhilePaused;
    setText(
      button,
      !this.paused
        ? "Pause"
        : missed > 0
          ? `Resume (${missed.toLocaleString("en")} new)`
          : "Resume",
    );
  }

  visibilityChanged() {
    if (document.visibilityState !== "visible") return;
    this.channel.ask();
    this.trouble.seen();
    // The page is visible again: end a delay that began while it was hidden.
    if (this.stateLine.waiting) this.server.retryNow();
  }
}

function readSettings({ dataset }) {
  const { root, channel, site = "pushserver" } = dataset;
  const absolute = (path) => new URL(`${root}/${path}`, window.location.href).href;
  const historySize = Math.min(MAX_POINTS, Number(dataset.historySize));
  const listSize = Number(dataset.listSize);
  return {
    channel,
    site,
    historySize,
    listSize,
    last: Math.max(historySize, listSize),
    rootUrl: absolute(""),
    url: absolute(`channels/${encodeURIComponent(channel)}`),
    permissionsUrl: absolute(`channels/${encodeURIComponent(channel)}/permissions`),
    statusUrl: absolute(`status?channel=${encodeURIComponent(channel)}`),
  };
}

const settings = readSettings(byId("live"));
showCommands(settings);
attachCopyButtons(document);
new LivePage(settings).start();
