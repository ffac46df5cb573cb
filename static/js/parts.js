// The parts of the live page for pages of the user: `graph`, `list` and `number`. This file checks the
// arguments; the parts themselves are loaded when the first one is made.

import { channelName, show } from "./arguments.js";

const COMMON = ["event", "format", "label", "server", "value"];

const KINDS = {
  graph: { options: [...COMMON, "last"], last: 300, most: 5000 },
  list: { options: [...COMMON, "last"], last: 10, most: 1000 },
  number: { options: [...COMMON, "unit"], last: 10, most: 10 },
};

/**
 * The three functions. `connect()` makes their server, which all parts without the option `server` share
 * as long as there is one of them.
 *
 * Each is called with an element or a selector, the name of a channel, and options, and returns an
 * object with `stop()`. Raises TypeError for wrong arguments.
 */
export function partsOf(connect) {
  let shared = null;
  let users = 0;
  const release = () => {
    users -= 1;
    if (users > 0) return;
    shared.close();
    shared = null;
  };
  const make = (kind) => (target, channel, options = {}) => {
    const element = elementOf(kind, target);
    const checked = check(kind, channel, options);
    if (options.server) return start(kind, element, options.server, channel, checked, () => {});
    shared ??= connect();
    users += 1;
    return start(kind, element, shared, channel, checked, release);
  };
  return { graph: make("graph"), list: make("list"), number: make("number") };
}

function start(kind, element, server, channel, options, onEnd) {
  let part = null;
  let ended = false;
  const end = () => {
    if (ended) return;
    ended = true;
    part?.stop();
    onEnd();
  };
  const fail = (error) => {
    globalThis.reportError(error);
    end();
  };
  import("./part.js")
    .then(
      ({ Part }) => {
        if (!ended) part = new Part(kind, element, server, channel, options, end);
      },
      (error) => {
        element.textContent = `The ${kind} did not load. Reload the page.`;
        fail(error);
      },
    )
    .catch(fail);
  return { stop: end };
}

function elementOf(kind, target) {
  if (target instanceof Element) return target;
  if (typeof target !== "string") {
    throw new TypeError(`${kind}(): the element is ${show(target)}, expected an element or a selector`);
  }
  let element;
  try {
    element = document.querySelector(target);
  } catch {
    throw new TypeError(`${kind}(): ${show(target)} is not a selector`);
  }
  if (!element) throw new TypeError(`${kind}(): no element matches ${show(target)}`);
  return element;
}

function check(kind, channel, options) {
  const { options: names, last, most } = KINDS[kind];
  const fail = (name, expected) => {
    throw new TypeError(`${kind}(): ${name} is ${show(options[name])}, expected ${expected}`);
  };
  channelName(kind, channel);
  if (typeof options !== "object" || options === null) {
    throw new TypeError(`${kind}(): the options are ${show(options)}, expected an object`);
  }
  for (const name of Object.keys(options)) {
    if (names.includes(name)) continue;
    const known = [...names].sort().join(", ");
    throw new TypeError(`${kind}(): no option ${show(name)}; there are ${known}`);
  }
  const { event, format, label, server, unit, value } = options;
  const count = options.last ?? last;
  if (!Number.isInteger(count) || count < 1 || count > most) {
    fail("last", `a whole number from 1 to ${most}`);
  }
  for (const name of ["event", "label", "unit"]) {
    if (!["string", "undefined"].includes(typeof options[name])) fail(name, "a text");
  }
  if (!["function", "object", "undefined"].includes(typeof format) || format === null) {
    fail("format", "a function, or options of Intl.NumberFormat");
  }
  try {
    if (typeof format === "object") new Intl.NumberFormat(undefined, format);
  } catch (error) {
    fail("format", `options of Intl.NumberFormat: ${error.message}`);
  }
  const isList = Array.isArray(value) && value.every((path) => typeof path === "string");
  if (!isList && !["function", "string", "undefined"].includes(typeof value)) {
    fail("value", 'a path such as "room.temp", a list of paths, or a function of the data');
  }
  if (server !== undefined && typeof server?.watch !== "function") {
    fail("server", "the result of connect()");
  }
  return { event, format, label: label ?? channel, last: count, unit: unit ?? "", value };
}
