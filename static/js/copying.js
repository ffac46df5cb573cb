// Buttons that copy the text of another element: `<button data-copy="id of the element">`.

const SHOWN_MS = 1500;

export function attachCopyButtons(root) {
  for (const button of root.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", () => copyFor(button));
  }
}

async function copyFor(button) {
  const source = button.getRootNode().getElementById(button.dataset.copy);
  const copied = await copy(source);
  const label = button.textContent;
  if (label === "Copied" || label === "Press Ctrl-C") return;
  button.textContent = copied ? "Copied" : "Press Ctrl-C";
  setTimeout(() => (button.textContent = label), SHOWN_MS);
}

// navigator.clipboard exists on https and localhost only. Elsewhere try execCommand; if that fails
// too, the text stays selected.
async function copy(source) {
  try {
    await navigator.clipboard.writeText(source.textContent);
    return true;
  } catch {
    window.getSelection().selectAllChildren(source);
    return document.execCommand("copy");
  }
}
