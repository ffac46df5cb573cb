"use strict";
// Socket.IO on Node: io.emit. usage: socketio_peer.js MODULES FEED PORT
const { createRequire } = require("module");
const [modules, feed, port] = process.argv.slice(2);
const { Server } = createRequire(modules + "/")("socket.io");
const follow = require("./feed.js");

const http = require("http").createServer();
const io = new Server(http, { serveClient: false });
http.listen(Number(port), "127.0.0.1");
follow(feed, (event) => io.emit("message", event));
