// The form that opens a channel by its name.

import { isName, MAX_NAME } from "./naming.js";

const COMPLETIONS = 20;
const LEAST_BEGINNING = 3; // characters

/** The problem with this channel name, as a text for the reader; "" if it is valid. */
export function nameProblem(name) {
  if (name === "") return "Type the name of a channel.";
  if (name.length > MAX_NAME)
    return `A channel name has at most ${MAX_NAME} characters; this one has ${name.length}.`;
  const shown = JSON.stringify(name);
  if (!/^(\$?[A-Za-z0-9]|#)/.test(name))
    return `A channel name begins with a letter or a digit, $ or #; this one is ${shown}.`;
  if (!isName(name))
    return `A channel name is made of A-Z a-z 0-9 _ . : @ - only, perhaps with $ before it and #USER,USER at its end; this one is ${shown}.`;
  return "";
}

/**
 * The names of channels that contain a text, those with the newest events first; [] if this page may
 * not have them, and on failure.
 */
export async function findNames(text, limit) {
  const { root, lists } = document.getElementById("open-channel").dataset;
  if (lists === undefined) return [];
  try {
    const query = new URLSearchParams({ q: text, limit });
    const answer = await fetch(`${root}/channels/?${query}`, {
      headers: { Accept: "application/json" },
    });
    return answer.ok ? (await answer.json()).channels.map(({ channel }) => channel) : [];
  } catch {
    return [];
  }
}

/** The names that are similar to this one, the most similar ones first, at most `count`. */
export function nearest(name, names, count) {
  const distances = names.map((other) => [distance(name.toLowerCase(), other.toLowerCase()), other]);
  return distances
    .filter(([changed, other]) => changed <= Math.max(name.length, other.length) / 3 || begins(name, other))
    .sort(([one], [other]) => one - other)
    .slice(0, count)
    .map(([, other]) => other);
}

// Whether one of them is the beginning of the other.
function begins(name, other) {
  const [short, long] = [name.toLowerCase(), other.toLowerCase()].sort((a, b) => a.length - b.length);
  return short.length >= LEAST_BEGINNING && long.startsWith(short);
}

/** The number of characters to insert, remove or replace between two texts. */
function distance(one, other) {
  let row = Array.from({ length: other.length + 1 }, (_, index) => index);
  for (let i = 1; i <= one.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= other.length; j += 1) {
      const replaced = row[j - 1] + (one[i - 1] === other[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, row[j] + 1, next[j - 1] + 1));
    }
    row = next;
  }
  return row[other.length];
}

function attach(form) {
  const input = form.elements.channel;
  const options = document.getElementById("channel-names");
  let asked = null;

  async function complete() {
    const text = input.value.trim();
    if (text === asked) return;
    asked = text;
    const names = await findNames(text, COMPLETIONS);
    if (text !== asked) return;
    options.replaceChildren(...names.map((name) => new Option(name, name)));
  }

  input.addEventListener("focus", complete);
  input.addEventListener("input", () => {
    input.setCustomValidity("");
    complete();
  });

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const name = input.value.trim();
    input.setCustomValidity(nameProblem(name));
    if (!form.reportValidity()) return;
    // Of all characters of a name, a path has only this one in another form.
    window.location.assign(`${form.dataset.root}/channels/${name.replace("#", "%23")}`);
  });
}

if (typeof document !== "undefined") {
  const form = document.getElementById("open-channel");
  if (form) attach(form);
}
