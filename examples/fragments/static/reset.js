// The list is of a history that the server does not have any more. htmx makes each event of a stream one of
// the element, and Turbo leaves those of the server to the page.
const stream = document.querySelector("turbo-stream-source")?.streamSource ?? document;
stream.addEventListener("pushserver-reset", () => location.reload());
