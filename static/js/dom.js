// Makes elements, and changes their texts.

/** A new element of this class. */
export function element(name, className, text = "") {
  const node = document.createElement(name);
  node.className = className;
  node.textContent = text;
  return node;
}

/** Sets the text of an element, only if it differs: a change costs a layout. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
