// Readable forms of published data: pure functions, no DOM.

// Bounds on the part of a publication that is shown, whatever its size: a page on a busy channel
// shows a thousand a second.
const MAX_LEAVES = 64;
const MAX_DEPTH = 6;
const MAX_PARTS = 8;
const MAX_CHARACTERS = 200;
const MIN_DECIMALS = 4; // numbers up to 1 have more, for their significant digits
const SIGNIFICANT_DIGITS = 6;
const MAX_WIDTH = 16; // characters; longer numbers do not widen the column of the others
const MAX_DIGITS = 30; // of an integer in a column; longer ones are cut like texts

/** The name of the only line of a channel whose data are bare numbers. */
export const BARE = "value";

// Only these texts can have an integer that JSON.parse would round. Most frames have none.
const LONG_INTEGER = /(?:^|[^\d.])\d{16,}(?![\d.eE])/;

/**
 * The value of a JSON text, with a BigInt for each integer above 2^53. Browsers without the source
 * of a number in JSON.parse (before 2025) round it.
 */
export function parseExactly(text) {
  if (!LONG_INTEGER.test(text)) return JSON.parse(text);
  try {
    return JSON.parse(text, exactInteger);
  } catch {
    return JSON.parse(text); // nested deeper than the stack of a reviver allows
  }
}

function exactInteger(_, value, context) {
  const isRounded = typeof value === "number" && !Number.isSafeInteger(value);
  return isRounded && /^-?\d+$/.test(context?.source) ? BigInt(context.source) : value;
}

/**
 * Every leaf that is a number or null, as a Map from its path ("temp", "room.temp") to the value.
 * Arrays are not walked: their elements have no names that a legend could show.
 */
export function numericLeaves(data) {
  const leaves = new Map();
  if (isMeasured(data)) leaves.set(BARE, data);
  else if (isPlainObject(data)) collectLeaves(data, "", 1, leaves);
  return leaves;
}

function collectLeaves(object, prefix, depth, leaves) {
  for (const key in object) {
    if (leaves.size >= MAX_LEAVES) return;
    const value = object[key];
    if (isMeasured(value)) leaves.set(prefix + key, value);
    else if (isPlainObject(value) && depth < MAX_DEPTH)
      collectLeaves(value, `${prefix}${key}.`, depth + 1, leaves);
  }
}

/**
 * The first `most` leaves, numbers or any other data, as pairs of path and value; BARE is the path of data
 * that is no object.
 */
export function leaves(data, most) {
  if (!isPlainObject(data)) return [[BARE, data]];
  const found = [];
  collectAll(data, "", 1, found, most);
  return found;
}

function collectAll(object, prefix, depth, found, most) {
  for (const key in object) {
    if (found.length >= most) return;
    const value = object[key];
    if (isPlainObject(value) && depth < MAX_DEPTH && hasKeys(value))
      collectAll(value, `${prefix}${key}.`, depth + 1, found, most);
    else found.push([prefix + key, value]);
  }
}

function hasKeys(object) {
  for (const key in object) return key !== undefined;
  return false;
}

/** Whether the value is a point of a line, or null, its gap. */
export function isMeasured(value) {
  return value === null || isNumber(value);
}

function isNumber(value) {
  return Number.isFinite(typeof value === "bigint" ? Number(value) : value);
}

/** Whether the value is a JSON object. */
export function isPlainObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * The data as a short list of parts `{key, kind, number | text}` for one row of the list.
 * `kind` is "number", "text" or "code" (JSON); `key` is "" for data that is not an object.
 * `cut`: whether the row lacks a part of the data.
 */
export function describe(data) {
  if (!isPlainObject(data)) {
    const part = describeValue("", data);
    return { parts: [part], cut: part.cut };
  }
  const parts = [];
  const cut = collectParts(data, "", parts) || parts.some((part) => part.cut);
  if (parts.length === 0) parts.push(codePart("", data));
  return { parts, cut };
}

// Objects are flattened as for the graph, so that rows and the legend use the same names.
function collectParts(object, prefix, parts) {
  for (const key in object) {
    if (parts.length >= MAX_PARTS) return true;
    const value = object[key];
    const nested =
      isPlainObject(value) && Object.keys(value).length > 0 && prefix.split(".").length < MAX_DEPTH;
    if (nested) {
      if (collectParts(value, `${prefix}${key}.`, parts)) return true;
    } else {
      parts.push(describeValue(prefix + key, value));
    }
  }
  return false;
}

/** One value as a part, as in `describe()`. */
export function describeValue(key, value) {
  if (isNumber(value) && String(value).length <= MAX_DIGITS)
    return { key, kind: "number", number: value, cut: false };
  if (typeof value === "string" && value.trim() !== "") {
    return {
      key,
      kind: "text",
      text: value.slice(0, MAX_CHARACTERS),
      cut: value.length > MAX_CHARACTERS || value.includes("\n"),
    };
  }
  return codePart(key, value);
}

function codePart(key, value) {
  const text = json(value);
  return {
    key,
    kind: "code",
    text: text.slice(0, MAX_CHARACTERS),
    cut: text.length > MAX_CHARACTERS,
  };
}

/**
 * All of the data, for the dialog: text as it is, any other value as indented JSON.
 */
export function wholeText(data) {
  return typeof data === "string" ? data : json(data, 2);
}

/** The publication as the server sends it, as indented JSON, without its cursor. */
export function publicationText({ channel, event, data, offset, time }) {
  return json({ channel, event, data, offset, time: time / 1000 }, 2);
}

/** The data for a search: text as it is, any other value as JSON. */
export function compactText(data) {
  return typeof data === "string" ? data : json(data);
}

// Data may be nested deeper than the stack of JSON.stringify allows.
function json(value, indent) {
  try {
    return JSON.stringify(value, rawInteger, indent) ?? String(value);
  } catch {
    return "(too deep to show)";
  }
}

// A browser that made a BigInt in parseExactly has JSON.rawJSON as well.
function rawInteger(_, value) {
  return typeof value === "bigint" ? JSON.rawJSON(String(value)) : value;
}

/** The data in a few words, for the title and for a screen reader. */
export function spokenText(data) {
  const words = describe(data).parts.map((part) => {
    const value =
      part.kind === "number" ? formatNumber(part.number, decimalsOf(part.number)) : part.text;
    return part.key ? `${part.key} ${value}` : value;
  });
  return words.join(", ").slice(0, MAX_CHARACTERS);
}

/** The decimals that the number needs, without the noise of binary fractions (0.1 + 0.2). */
export function decimalsOf(number) {
  if (typeof number === "bigint" || Number.isInteger(number) || isExtreme(number)) return 0;
  const text = String(Number(number.toPrecision(12)));
  const point = text.indexOf(".");
  const magnitude = Math.floor(Math.log10(Math.abs(number)));
  const wanted = Math.max(MIN_DECIMALS, SIGNIFICANT_DIGITS - 1 - magnitude);
  return point < 0 ? 0 : Math.min(wanted, text.length - point - 1);
}

/**
 * The number with a fixed count of decimals. From 1e15 on it has its own digits, and below 1e-6 an
 * exponent.
 */
export function formatNumber(number, decimals) {
  if (typeof number === "bigint") return String(number);
  if (!isExtreme(number)) return number.toFixed(decimals);
  return Math.abs(number) < 1 ? shortExponential(number) : String(number);
}

/** The number with an exponent and at most `digits` digits, without zeros at the end. */
export function shortExponential(number, digits = SIGNIFICANT_DIGITS) {
  return number.toExponential(digits - 1).replace(/\.?0+e/, "e");
}

function isExtreme(number) {
  const size = Math.abs(number);
  return size >= 1e15 || (size > 0 && size < 1e-6);
}

/**
 * For each key the decimals and the width (in characters) that make its numbers align over these
 * descriptions, but for those of more than MAX_WIDTH characters; `format(number, decimals)` makes their texts.
 * Returns a Map from key to `{decimals, width}`.
 */
export function alignment(descriptions, format = formatNumber) {
  const numbers = new Map();
  for (const { parts } of descriptions) {
    for (const part of parts) {
      if (part.kind !== "number") continue;
      if (!numbers.has(part.key)) numbers.set(part.key, []);
      numbers.get(part.key).push(part.number);
    }
  }
  const columns = new Map();
  for (const [key, column] of numbers) {
    const decimals = Math.max(...column.map(decimalsOf));
    const widths = column.map((number) => format(number, decimals).length);
    const width = Math.max(0, ...widths.filter((one) => one <= MAX_WIDTH));
    columns.set(key, { decimals, width });
  }
  return columns;
}
