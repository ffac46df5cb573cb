// The commands and lines of code on the page: `<code data-command="curl URL">`. Their words in
// capitals stand for the URLs of the channel, of the server and of its module, and for the name.

/** Puts the channel into all of them; `rootUrl` ends with a slash. */
export function showCommands({ url, rootUrl, channel }) {
  const MODULE = `${rootUrl}static/pushserver.js`;
  const words = { URL: url, ROOT: rootUrl, MODULE, CHANNEL: channel };
  for (const element of document.querySelectorAll("[data-command]")) {
    const { command, language } = element.dataset;
    // JSON's strings are those of Python and of JavaScript too.
    const quote = language === "shell" ? shellWord : JSON.stringify;
    const filled = command.replace(/\b(?:URL|ROOT|MODULE|CHANNEL)\b/g, (word) => quote(words[word]));
    element.textContent = filled;
  }
}

// Only the path of a proxy in front of the server can contain characters special to a shell.
function shellWord(url) {
  return /^[\w.:/@%+,=-]+$/.test(url) ? url : `'${url.replaceAll("'", "%27")}'`;
}
