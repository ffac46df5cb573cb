// Readable forms of published data: pure functions, no DOM.

// Bounds on the part of a publication that is shown, whatever its size: a page on a busy channel
// shows a thousand a second.
const MAX_LEAVES = 64;
const MAX_DEPTH = 6;
const MAX_PARTS = 8;
const MAX_CHARACTERS = 200;
const MAX_DECIMALS = 4;

/** The name of the only line of a channel whose data are bare numbers. */
export const BARE = "value";

/**
 * Every numeric leaf of the data, as a Map from its path ("temp", "room.temp") to the number.
 * Arrays are not walked: their elements have no names that a legend could show.
 */
export function numericLeaves(data) {
  const leaves = new Map();
  if (isNumber(data)) leaves.set(BARE, data);
  else if (isPlainObject(data)) collectLeaves(data, "", 1, leaves);
  return leaves;
}

function collectLeaves(object, prefix, depth, leaves) {
  for (const key in object) {
    if (leaves.size >= MAX_LEAVES) return;
    const value = object[key];
    if (isNumber(value)) leaves.set(prefix + key, value);
    else if (isPlainObject(value) && depth < MAX_DEPTH)
      collectLeaves(value, `${prefix}${key}.`, depth + 1, leaves);
  }
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

function isPlainObject(value) {
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

function describeValue(key, value) {
  if (isNumber(value)) return { key, kind: "number", number: value, cut: false };
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

// Data may be nested deeper than the stack of JSON.stringify allows.
function json(value, indent) {
  try {
    return JSON.stringify(value, null, indent) ?? String(value);
  } catch {
    return "(too deep to show)";
  }
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
  if (!needsDecimals(number)) return 0;
  const text = String(Number(number.toPrecision(12)));
  const point = text.indexOf(".");
  return point < 0 ? 0 : Math.min(MAX_DECIMALS, text.length - point - 1);
}

/**
 * The number with a fixed count of decimals; very large and very small ones keep their exponent.
 */
export function formatNumber(number, decimals) {
  if (isExtreme(number)) return number.toExponential(3);
  return number.toFixed(decimals);
}

function needsDecimals(number) {
  return !Number.isInteger(number) && !isExtreme(number);
}

function isExtreme(number) {
  const size = Math.abs(number);
  return size >= 1e15 || (size > 0 && size < 1e-6);
}

/**
 * For each key the decimals and the width (in characters) that make its numbers align over these
 * descriptions. Returns a Map from key to `{decimals, width}`.
 */
export function alignment(descriptions) {
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
    const width = Math.max(...column.map((number) => formatNumber(number, decimals).length));
    columns.set(key, { decimals, width });
  }
  return columns;
}
