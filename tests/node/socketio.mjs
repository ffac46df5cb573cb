// The official client of Socket.IO: `node socketio.mjs URL NAMESPACE TRANSPORT...`. Prints what the
// story says, one JSON array of a name and a value a line.

import { io } from 'socket.io-client';
import { play } from './socketio_story.mjs';

const [url, namespace, ...transports] = process.argv.slice(2);
await play(io, url, namespace, transports, (...said) => console.log(JSON.stringify(said)));
