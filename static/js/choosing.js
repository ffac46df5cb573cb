// The controls of the live page: view, fields, axes, time, filter and rows. They are also in the URL.

import { MOST_FIELDS, readChoice, spanText, writeChoice } from "./choice.js";
import { element, setText } from "./dom.js";

const WRITE_MS = 300; // browsers refuse more than some hundred changes of the URL in half a minute

/** Holds the `choice` of the reader; calls `onChange(name)` with the part of it that has changed. */
export class Choosing {
  constructor(byId, fields, onChange) {
    const { choice, problems } = readChoice(window.location.search);
    this.choice = choice;
    this.problem = problems.join(". ");
    this.fields = fields;
    this.onChange = onChange;
    for (const name of [...choice.fields, ...choice.right]) if (!fields.known.has(name)) fields.add(name);
    this.listed = ""; // the state of the fields that the panel shows
    this.elements = {
      views: byId("views"),
      seconds: byId("seconds"),
      filter: byId("filter"),
      rows: byId("rows"),
      open: byId("fields-button"),
      panel: byId("fields"),
      note: byId("fields-note"),
      list: byId("field-list"),
      all: byId("fields-all"),
      form: byId("field-form"),
      name: byId("field-name"),
    };
    this.#show();
    this.#listen();
  }

  /** Shows the fields that have appeared, if the panel is open. */
  update() {
    const { panel } = this.elements;
    if (!panel.hidden) this.#list();
  }

  #show() {
    const { views, seconds, filter, rows } = this.elements;
    const { choice } = this;
    document.documentElement.dataset.view = choice.view;
    views.querySelector(`[value="${choice.view}"]`).checked = true;
    const span = String(choice.seconds);
    const isUsual = [...seconds.options].some(({ value }) => value === span);
    if (!isUsual) seconds.append(new Option(`Last ${spanText(choice.seconds)}`, span));
    seconds.value = span;
    filter.value = choice.filter;
    rows.value = String(choice.rows);
  }

  #listen() {
    const { views, seconds, filter, rows, open, panel, all, list, form } = this.elements;
    views.addEventListener("change", ({ target }) => {
      document.documentElement.dataset.view = target.value;
      this.#set("view", target.value);
    });
    seconds.addEventListener("change", () => this.#set("seconds", Number(seconds.value)));
    filter.addEventListener("input", () => this.#set("filter", filter.value.trim()));
    rows.addEventListener("change", () => this.#set("rows", Number(rows.value)));
    open.addEventListener("click", () => this.#toggle());
    panel.addEventListener("keydown", ({ key }) => {
      if (key !== "Escape") return;
      this.#toggle();
      open.focus();
    });
    list.addEventListener("change", ({ target }) => this.#ticked(target));
    all.addEventListener("click", () => this.#set("fields", []));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#add();
    });
  }

  #toggle() {
    const { open, panel } = this.elements;
    panel.hidden = !panel.hidden;
    open.setAttribute("aria-expanded", String(!panel.hidden));
    this.update();
  }

  #set(name, value) {
    this.choice = { ...this.choice, [name]: value };
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#write(), WRITE_MS);
    this.update();
    this.onChange(name);
  }

  #write() {
    const { pathname, search, hash } = window.location;
    const query = writeChoice(this.choice, search);
    if (query !== search) window.history.replaceState(null, "", `${pathname}${query}${hash}`);
  }

  #ticked({ name, value, checked }) {
    const before = this.choice[name].filter((path) => path !== value);
    this.#set(name, checked ? [...before, value].slice(-MOST_FIELDS) : before);
  }

  #add() {
    const { name } = this.elements;
    const path = name.value.trim();
    if (!path) return;
    if (!this.fields.known.has(path)) this.fields.add(path);
    name.value = "";
    this.#set("fields", [...new Set([...this.choice.fields, path])].slice(-MOST_FIELDS));
  }

  // --- the panel of the fields ---------------------------------------

  #list() {
    const { list, all, note } = this.elements;
    const { names, numeric, isFull } = this.fields;
    const { fields, right } = this.choice;
    const paths = [...new Set([...names, ...fields])];
    const state = JSON.stringify([paths, [...numeric], fields, right]);
    if (state === this.listed) return;
    this.listed = state;
    const rows = new Map([...list.children].map((row) => [row.dataset.field, row]));
    for (const path of paths) {
      if (!rows.has(path)) list.append(fieldRow(path));
    }
    for (const row of list.children) {
      const [shown, axis] = row.querySelectorAll("input");
      shown.checked = fields.includes(shown.value);
      axis.checked = right.includes(axis.value);
      axis.parentNode.hidden = !numeric.has(axis.value) && !axis.checked;
    }
    all.hidden = fields.length === 0;
    const more = isFull ? " There are more than these: type the name of another one." : "";
    const none = names.length === 0 ? "No fields yet." : "All fields are shown. Choose some to see only these.";
    setText(note, `${fields.length > 0 ? `${fields.length} chosen.` : none}${more}`);
  }
}

function fieldRow(path) {
  const row = element("div", "field");
  row.dataset.field = path;
  row.append(tick("fields", path, path), tick("right", path, "right axis"));
  row.lastChild.firstChild.setAttribute("aria-label", `${path}: right axis`);
  return row;
}

function tick(name, value, text) {
  const label = element("label", `field-${name}`);
  const box = element("input", "form-check-input");
  Object.assign(box, { type: "checkbox", name, value, autocomplete: "off" });
  label.append(box, " ", element("bdi", "field-text", text));
  return label;
}
