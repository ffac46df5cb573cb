const list = document.getElementById("orders");
const stream = new EventSource(list.dataset.stream);

stream.onmessage = (message) => list.insertAdjacentHTML("beforeend", message.data);
