// Times, durations and rates as texts: pure functions, no DOM. Instants are milliseconds since
// 1970.

const CLOCK = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});
const MINUTE_CLOCK = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  hourCycle: "h23",
});
const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const FULL = new Intl.DateTimeFormat(undefined, {
  dateStyle: "medium",
  timeStyle: "medium",
  hourCycle: "h23",
});

/** The time of day, or the date if it is not today. */
export function clock(instant, now) {
  const date = new Date(instant);
  return date.toDateString() === new Date(now).toDateString()
    ? CLOCK.format(date)
    : DAY.format(date);
}

/** Day and time, for tooltips and details. */
export function fullTime(instant) {
  return FULL.format(new Date(instant));
}

/** The time since then, as a text: "just now", "3 s ago", "2 min ago". */
export function ago(milliseconds) {
  const seconds = Math.floor(milliseconds / 1000);
  if (seconds < 1) return "just now";
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

/** A rate as a text, from events a second: "12 a second", "30 a minute". */
export function rate(perSecond) {
  if (perSecond >= 1) return `${roundTo(perSecond)} a second`;
  if (perSecond * 60 >= 1) return `${roundTo(perSecond * 60)} a minute`;
  if (perSecond * 3600 >= 1) return `${roundTo(perSecond * 3600)} an hour`;
  return `${roundTo(perSecond * 86400)} a day`;
}

function roundTo(number) {
  return number >= 9.95
    ? Math.round(number).toLocaleString("en")
    : String(Number(number.toFixed(1)));
}

/** Labels for ticks of a time axis; `step` and `ticks` are in seconds. */
export function tickLabels(ticks, step) {
  if (step < 1) return ticks.map((tick) => secondLabel(tick, step));
  const format = step >= 86400 ? DAY : step >= 60 ? MINUTE_CLOCK : CLOCK;
  return ticks.map((tick) => format.format(new Date(tick * 1000)));
}

// Below a second, as on a channel with a thousand events a second, only the second and its
// fraction: "07.25 s".
function secondLabel(tick, step) {
  const decimals = step >= 0.1 ? 1 : step >= 0.01 ? 2 : 3;
  return `${(tick % 60).toFixed(decimals).padStart(3 + decimals, "0")} s`;
}
