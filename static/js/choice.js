// What the reader has chosen to see, and its form in the URL, so that a link shows the same. No DOM.

export const VIEWS = ["overview", "graph", "list", "table", "json"];
export const ROWS = [10, 30, 100, 300];
export const MOST_FIELDS = 32;
const MOST_CHARACTERS = 200;
const MOST_SECONDS = 10 * 365 * 86_400;
const OWN = ["view", "field", "right", "seconds", "filter", "rows"];

/**
 * The choice in the query of a URL, and the problems in it, as texts: `{view, fields, right, seconds, filter,
 * rows}`. `fields` are the paths that are shown, none for all of them; the lines in `right` have the second
 * axis; `seconds` is the time before the newest event, 0 for all of it.
 */
export function readChoice(query) {
  const parameters = new URLSearchParams(query);
  const problems = [];
  const one = (name, fallback, accepts, expected) => {
    const text = parameters.get(name);
    if (text === null) return fallback;
    const value = accepts(text);
    if (value !== undefined) return value;
    problems.push(`${name}=${text.slice(0, 40)} in the address: expected ${expected}`);
    return fallback;
  };
  const paths = (name) => {
    const all = [...new Set(parameters.getAll(name))];
    const some = all.filter((path) => path.length <= MOST_CHARACTERS).slice(0, MOST_FIELDS);
    if (some.length < all.length)
      problems.push(`${name} in the address: expected at most ${MOST_FIELDS}, of ${MOST_CHARACTERS} characters`);
    return some;
  };
  const view = (text) => (VIEWS.includes(text) ? text : undefined);
  const rows = (text) => ROWS.find((number) => String(number) === text);
  const seconds = (text) => {
    const number = /^\d{1,9}$/.test(text) ? Number(text) : 0;
    return number > 0 && number <= MOST_SECONDS ? number : undefined;
  };
  const filter = (text) => (text.length <= MOST_CHARACTERS ? text : undefined);
  const choice = {
    view: one("view", VIEWS[0], view, VIEWS.join(", ")),
    fields: paths("field"),
    right: paths("right"),
    seconds: one("seconds", 0, seconds, `a whole number from 1 to ${MOST_SECONDS}`),
    filter: one("filter", "", filter, `at most ${MOST_CHARACTERS} characters`),
    rows: one("rows", ROWS[0], rows, ROWS.join(", ")),
  };
  return { choice, problems };
}

/** The query of a URL with this choice, "" or with its question mark; other parameters stay. */
export function writeChoice({ view, fields, right, seconds, filter, rows }, query) {
  const parameters = new URLSearchParams(query);
  for (const name of OWN) parameters.delete(name);
  if (view !== VIEWS[0]) parameters.set("view", view);
  for (const path of fields) parameters.append("field", path);
  for (const path of right) parameters.append("right", path);
  if (seconds > 0) parameters.set("seconds", seconds);
  if (filter) parameters.set("filter", filter);
  if (rows !== ROWS[0]) parameters.set("rows", rows);
  const text = parameters.toString().replaceAll("%3A", ":").replaceAll("%2C", ",");
  return text && `?${text}`;
}

/** A span of time in words: "10 s", "5 min", "1 h". */
export function spanText(seconds) {
  if (seconds < 60 || seconds % 60 > 0) return `${seconds} s`;
  if (seconds < 3600 || seconds % 3600 > 0) return `${seconds / 60} min`;
  return seconds < 86_400 || seconds % 86_400 > 0 ? `${seconds / 3600} h` : `${seconds / 86_400} d`;
}
