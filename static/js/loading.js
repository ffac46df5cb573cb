// Runs before the other scripts of a live page: a classic script, as a module would run after them.
"use strict";

(() => {
  let missing = "";

  // A page that does not start says why.
  const onError = (event) => {
    if (document.getElementById("live").dataset.started) return;
    const { src } = event.target;
    if (src) missing ||= new URL(src).pathname.split("/").pop();
    else if (!(event instanceof ErrorEvent)) return;
    document.getElementById("state").dataset.state = "closed";
    document.getElementById("state-text").textContent =
      `Not started: ${missing ? `${missing} did not load` : event.message}. Reload the page.`;
  };
  window.addEventListener("error", onError, true);
})();
