"use strict";
// Node's `ws`, by its own documentation's broadcast. usage: ws_peer.js MODULES FEED PORT
const { createRequire } = require("module");
const [modules, feed, port] = process.argv.slice(2);
const WebSocket = createRequire(modules + "/")("ws");
const follow = require("./feed.js");

const server = new WebSocket.WebSocketServer({ host: "127.0.0.1", port: Number(port) });
follow(feed, (event) => {
  const text = Buffer.from(JSON.stringify(event));
  for (const client of server.clients) {
    if (client.readyState === WebSocket.OPEN) client.send(text, { binary: false });
  }
});
