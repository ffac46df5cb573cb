// The reader's colour scheme, told to Bootstrap. Blocking and in the head: a module would run after
// the first paint and the page would flash. It also says to the graph when the scheme changes.
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
