// The options of the parts that say which part of the data is shown, and how a number is written.

import { formatNumber } from "./values.js";

/**
 * A function from the data of an event to the part that `value` names, undefined where there is none.
 * `value`: a path such as "room.temp" or "items.0.price", a list of paths (the result is an object with
 * them as keys), a function of the data, or undefined (all of the data).
 */
export function picker(value) {
  if (value === undefined) return (data) => data;
  if (typeof value === "function") return guarded(value, () => undefined);
  if (typeof value === "string") return (data) => at(data, value);
  return (data) => {
    const found = value.map((path) => [path, at(data, path)]);
    const present = found.filter(([, part]) => part !== undefined);
    return present.length > 0 ? Object.fromEntries(present) : undefined;
  };
}

/** The part of the data at a path; a key that contains dots is found too. */
export function at(data, path) {
  if (typeof data !== "object" || data === null) return undefined;
  if (Object.hasOwn(data, path)) return Array.isArray(data) && path === "length" ? undefined : data[path];
  for (let dot = path.indexOf("."); dot >= 0; dot = path.indexOf(".", dot + 1)) {
    const key = path.slice(0, dot);
    if (!Object.hasOwn(data, key)) continue;
    const found = at(data[key], path.slice(dot + 1));
    if (found !== undefined) return found;
  }
  return undefined;
}

/**
 * A function from a number and its decimals to its text. `format`: a function of the number, options of
 * Intl.NumberFormat, or undefined; raises RangeError for wrong options.
 */
export function formatter(format) {
  if (format === undefined) return formatNumber;
  if (typeof format === "function") {
    return guarded((number) => String(format(number)), formatNumber);
  }
  const { format: text } = new Intl.NumberFormat(undefined, format);
  return (number) => text(number);
}

// An error in a function of the page is reported once, and costs only its own result.
function guarded(call, fallback) {
  let reported = false;
  return (...values) => {
    try {
      return call(...values);
    } catch (error) {
      if (!reported) globalThis.reportError(error);
      reported = true;
      return fallback(...values);
    }
  };
}
