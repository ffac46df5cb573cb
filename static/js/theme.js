// Sets the reader's colour scheme for Bootstrap, and the view in the URL. Blocking and in the head: a
// module would run after the first paint, and the page would flash. Also notifies the graph of a change.
"use strict";

(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  const apply = () => {
    document.documentElement.dataset.bsTheme = dark.matches ? "dark" : "light";
    document.dispatchEvent(new Event("themechange"));
  };

  const view = new URLSearchParams(window.location.search).get("view");
  if (view) document.documentElement.dataset.view = view;
  dark.addEventListener("change", apply);
  apply();
})();
