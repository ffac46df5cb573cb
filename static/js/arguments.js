// Checks of the arguments of pushserver.js: each error names the value and what was expected.

import { isName } from "./naming.js";

/** The value, short enough for an error. */
export function show(value) {
  if (typeof value === "function") return "a function";
  if (typeof value === "object" && value !== null) return `an ${Array.isArray(value) ? "array" : "object"}`;
  return typeof value === "string" ? JSON.stringify(value.slice(0, 100)) : String(value);
}

/** The name of a channel. */
export function channelName(method, name) {
  if (typeof name === "string" && isName(name)) return name;
  throw new TypeError(
    `${method}(): the channel is ${show(name)}, expected a name of 1 to 128 letters, digits and _ . : @ -` +
      " (before it $ for a private channel, at its end #USER for one of a user), or #USER",
  );
}

/** The name of an event of the application. */
export function eventName(method, name) {
  if (typeof name === "string" && name !== "") return name;
  throw new TypeError(`${method}(): the event is ${show(name)}, expected its name`);
}

/** Checks a function. */
export function listener(method, name, value) {
  if (typeof value === "function") return;
  throw new TypeError(`${method}(): ${name} is ${show(value)}, expected a function`);
}

/** The URL of a server's root, which ends with a slash. */
export function serverUrl(url, root) {
  const wrong = (words) => new TypeError(`connect(): the URL is ${show(url)}, ${words}`);
  if (url === undefined) return root.href;
  if (typeof url !== "string" && !(url instanceof URL)) throw wrong("expected a text or a URL");
  let found;
  try {
    found = new URL(url, document.baseURI);
  } catch {
    throw wrong("which is not a URL");
  }
  if (!/^https?:$/.test(found.protocol)) {
    throw wrong("expected that of the server, as https://push.example/");
  }
  if (/\/connection\/\w+\/?$/.test(found.pathname)) {
    throw wrong("expected that of the server, without /connection/...");
  }
  found.search = found.hash = "";
  if (!found.pathname.endsWith("/")) found.pathname += "/";
  return found.href;
}

const CHECKS = {
  event: ["the name of an event", (value) => typeof value === "string" && value !== ""],
  key: ["a text", (value) => typeof value === "string" && value !== ""],
  last: ["an integer of 0 or more", (value) => Number.isSafeInteger(value) && value >= 0],
  name: ["a text", (value) => typeof value === "string"],
  since: ["{epoch, offset}, a position of the channel", isPosition],
  share: ["true, false or a text", (value) => /^(boolean|string)$/.test(typeof value) && value !== ""],
  token: ["a text", (value) => typeof value === "string"],
  data: ["a value of JSON", isJson],
};

/** The options that are given, of those that are known. */
export function checkOptions(method, options = {}, known) {
  if (typeof options !== "object" || options === null) {
    throw new TypeError(`${method}(): the options are ${show(options)}, expected an object`);
  }
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  for (const [name, value] of Object.entries(given)) {
    if (!known.includes(name)) {
      throw new TypeError(`${method}(): no option ${show(name)}; there are ${known.join(", ")}`);
    }
    const [words, isRight] = CHECKS[name] ?? ["a function", (one) => typeof one === "function"];
    if (isRight(value)) continue;
    const secret = ["data", "key", "token"].includes(name);
    const found = secret ? "of another type" : show(value);
    throw new TypeError(`${method}(): ${name} is ${found}, expected ${words}`);
  }
  return given;
}

function isPosition(value) {
  const { epoch, offset } = value ?? {};
  return typeof epoch === "string" && epoch !== "" && Number.isSafeInteger(offset) && offset >= 0;
}

/** A copy of the data as JSON has it. */
export function jsonValue(method, data) {
  if (!isJson(data)) throw new TypeError(`${method}(): the data is no value of JSON`);
  return JSON.parse(JSON.stringify(data));
}

function isJson(value) {
  try {
    return JSON.stringify(value) !== undefined;
  } catch {
    return false;
  }
}
