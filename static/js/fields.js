// The fields of published data: their names, and the data with some of them. No DOM.

import { at } from "./picking.js";
import { BARE, isMeasured, isPlainObject, leaves } from "./values.js";

const MOST_NAMES = 100;

/**
 * The names of the fields in the data that were noted, in the order in which they appeared; `numeric` has
 * those with numbers.
 */
export class Fields {
  constructor() {
    this.names = [];
    this.numeric = new Set();
    this.known = new Set();
    this.isFull = false;
  }

  /** Notes the names in this data; of a name after the hundredth, only `isFull` tells. */
  note(data) {
    for (const [name, value] of leaves(data, MOST_NAMES + 1)) {
      if (!this.known.has(name)) this.add(name);
      if (this.known.has(name) && value !== null && isMeasured(value)) this.numeric.add(name);
    }
  }

  /** Adds a name that may be in no data yet. */
  add(name) {
    if (this.names.length >= MOST_NAMES) {
      this.isFull = true;
      return;
    }
    this.known.add(name);
    this.names.push(name);
  }
}

/** The part of the data in this field, or undefined. Data that is no object is in the field "value". */
export function fieldOf(data, name) {
  if (isPlainObject(data)) return at(data, name);
  return name === BARE ? data : undefined;
}

/**
 * A function from data to the part in these fields, with their names as keys, or undefined if it has none
 * of them; from data to itself if `names` is empty.
 */
export function fieldPicker(names) {
  if (names.length === 0) return (data) => data;
  return (data) => {
    if (!isPlainObject(data)) return names.includes(BARE) ? data : undefined;
    const found = names.map((name) => [name, at(data, name)]);
    const present = found.filter(([, value]) => value !== undefined);
    return present.length > 0 ? Object.fromEntries(present) : undefined;
  };
}
