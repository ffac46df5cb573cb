// Loads uPlot when the first graph needs it.

const SOURCE = new URL("../vendor/uplot-1.6.32/uPlot.iife.min.js", import.meta.url).href;

let loading = null;

/** The class of uPlot; rejected if its file does not load, and tried again by the next call. */
export function loadPlot() {
  loading ??= load();
  return loading;
}

function load() {
  repairLanguage();
  // The file defines a global name, which a page may use for another version.
  const before = globalThis.uPlot;
  const script = document.createElement("script");
  return new Promise((resolve, reject) => {
    script.onload = () => {
      resolve(globalThis.uPlot);
      if (before) globalThis.uPlot = before;
    };
    script.onerror = () => {
      loading = null;
      reject(new Error(`${SOURCE} did not load`));
    };
    script.src = SOURCE;
    document.head.append(script);
  }).finally(() => script.remove());
}

// uPlot 1.6.32 calls Intl.NumberFormat(navigator.language) while it loads, which throws for "C"
// (WebKitGTK in the C locale) and "en-US@posix".
function repairLanguage() {
  if (isLanguage(navigator.language)) return;
  const language = (navigator.languages ?? []).find(isLanguage) ?? "en";
  Object.defineProperty(navigator, "language", { value: language, configurable: true });
}

function isLanguage(text) {
  try {
    Intl.getCanonicalLocales(text);
    return true;
  } catch {
    return false;
  }
}
