// Sets the reader's colour scheme for Bootstrap. Blocking and in the head: a module would run after
// the first paint, and the page would flash. Also notifies the graph of a change.
"use strict";

(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  const apply = () => {
    document.documentElement.dataset.bsTheme = dark.matches ? "dark" : "light";
    document.dispatchEvent(new Event("themechange"));
  };

  dark.addEventListener("change", apply);
  apply();
})();
