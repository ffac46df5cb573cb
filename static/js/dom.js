// Elements and their texts.

/** A new element of this class. */
export function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

/** Changes the text of an element only where it differs: a change costs a layout. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
