"use strict";

const LENGTH = 10;
const list = document.getElementById("numbers");
const state = document.getElementById("state");

const socket = io("/test");

socket.on("connect", () => {
  state.textContent = "connected";
});

socket.on("disconnect", () => {
  state.textContent = "connecting again";
});

socket.on("newnumber", ({ number }) => {
  const item = document.createElement("li");
  item.textContent = number;
  list.append(item);
  while (list.children.length > LENGTH) {
    list.firstElementChild.remove();
  }
});
