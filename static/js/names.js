// The form that opens a channel by its name.

const NAME = /^[A-Za-z0-9][A-Za-z0-9_.:@-]*$/;
const MAX_CHARACTERS = 128;

/** The problem with this channel name, as a text for the reader; "" if it is valid. */
export function nameProblem(name) {
  if (name === "") return "Type the name of a channel.";
  if (name.length > MAX_CHARACTERS)
    return `A channel name has at most ${MAX_CHARACTERS} characters; this one has ${name.length}.`;
  if (!/^[A-Za-z0-9]/.test(name)) return "A channel name begins with a letter or a digit.";
  if (!NAME.test(name)) return "A channel name is made of A-Z a-z 0-9 _ . : @ - only.";
  return "";
}

function attach(form) {
  const input = form.elements.channel;

  input.addEventListener("input", () => input.setCustomValidity(""));

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const name = input.value.trim();
    input.setCustomValidity(nameProblem(name));
    if (!form.reportValidity()) return;
    window.location.assign(`${form.dataset.root}/channels/${name}`);
  });
}

if (typeof document !== "undefined") {
  const form = document.getElementById("open-channel");
  if (form) attach(form);
}
