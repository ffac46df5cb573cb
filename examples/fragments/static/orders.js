const list = document.getElementById("orders");
const stream = new EventSource(list.dataset.stream);

stream.onmessage = (message) => list.insertAdjacentHTML("beforeend", message.data);
// The list is of a history that the server does not have any more.
stream.addEventListener("pushserver-reset", () => location.reload());
