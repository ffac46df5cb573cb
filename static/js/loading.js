// Runs before the other scripts of a live page: a classic script, as a module would run after them.
"use strict";

(() => {
  const isLanguage = (text) => {
    try {
      Intl.getCanonicalLocales(text);
      return true;
    } catch {
      return false;
    }
  };

  // uPlot 1.6.32 calls Intl.NumberFormat(navigator.language) while it loads, which throws for "C"
  // (WebKitGTK in the C locale) and "en-US@posix".
  if (!isLanguage(navigator.language)) {
    const language = (navigator.languages ?? []).find(isLanguage) ?? "en";
    Object.defineProperty(navigator, "language", { value: language, configurable: true });
  }

  let missing = "";

  // A page that does not start says why. If only uPlot is missing, the page starts, and the graph
  // has the text.
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
