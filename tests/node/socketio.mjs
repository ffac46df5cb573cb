// The official client of Socket.IO: `node socketio.mjs URL NAMESPACE TRANSPORT...`.
// Connects to the namespace, calls the application's handlers, and prints what came back: one
// JSON object a line, and then one for each event, connect and disconnect.

import { io } from 'socket.io-client';

const [url, namespace, ...transports] = process.argv.slice(2);
const MANY = 500;
const say = (what, value) => console.log(JSON.stringify({ [what]: value }));

const socket = io(`${url}${namespace}`, {
  transports,
  auth: { name: 'ada' },
  reconnectionDelay: 50,
  reconnectionDelayMax: 100,
});
const numbers = [];
socket.on('question', ({ n }, done) => done({ n: n + 1 }));
socket.on('number', (number) => numbers.push(number));
socket.on('published', (value) => say('published', value));
socket.on('connect_error', (error) => say('connect_error', error.message));
socket.on('disconnect', (reason) => say('disconnect', reason));

const welcome = await new Promise((done) => socket.once('welcome', done));
say('welcome', welcome);
if (transports.length === 2 && socket.io.engine.transport.name !== transports[1]) {
  await new Promise((done) => socket.io.engine.once('upgrade', done));
}
say('transport', socket.io.engine.transport.name);

const sent = { bytes: Buffer.from([0, 30, 255]), text: 'grün', list: [1, [null]] };
const back = await socket.timeout(5000).emitWithAck('same', sent);
say('same', Buffer.compare(back.bytes, sent.bytes) === 0 && { text: back.text, list: back.list });

const calls = Array.from({ length: MANY }, (_, n) => socket.timeout(5000).emitWithAck('same', n));
say('acknowledged', (await Promise.all(calls)).every((answer, n) => answer === n));
const ask = (event, n) => socket.timeout(5000).emitWithAck(event, { n });
say('asked', [await ask('ask', 1), await ask('ask_async', 2)]);
const last = new Promise((done) => socket.on('number', (n) => n === MANY - 1 && done()));
socket.emit('count', MANY);
await last;
say('numbers', numbers.length === MANY && numbers.every((number, n) => number === n));

const other = socket.io.socket('/other');
other.connect();
await new Promise((done) => other.once('connect', done));
say('other', await other.timeout(5000).emitWithAck('same', 'x', 'y'));
socket.on('connect', () => say('connect', socket.recovered));
say('ready', true);
