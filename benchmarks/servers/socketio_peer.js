"use strict";
// Socket.IO on Node: io.emit. usage: socketio_peer.js MODULES FEED PORT [URL pubsub|streams]
// URL: the Redis of several servers, with one of the adapters.
const { createRequire } = require("module");
const [modules, feed, port, url, kind] = process.argv.slice(2);
const load = createRequire(modules + "/");
const { Server } = load("socket.io");
const follow = require("./feed.js");

const http = require("http").createServer();
const io = new Server(http, { serveClient: false });

async function share() {
  const client = load("redis").createClient({ url });
  await client.connect();
  if (kind === "streams") {
    io.adapter(load("@socket.io/redis-streams-adapter").createAdapter(client));
    return;
  }
  const reader = client.duplicate();
  await reader.connect();
  io.adapter(load("@socket.io/redis-adapter").createAdapter(client, reader));
}

(url ? share() : Promise.resolve()).then(() => {
  http.listen(Number(port), "127.0.0.1");
  follow(feed, (event) => io.emit("message", event));
});
