// Runs stories with the official JavaScript client: `node stories.mjs ROOT_URL TRANSPORT`, with an
// object of them on stdin: bodies of async functions by name. Each gets a client of its own, the name
// of a channel and the functions below. Prints an object of their results by name, or of errors.

import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Centrifuge } from 'centrifuge';
import { Centrifuge as ProtobufCentrifuge } from 'centrifuge/build/protobuf';
import { EventSource } from 'eventsource';
import WebSocket from 'ws';

const [root, transport] = process.argv.slice(2);
const scheme = transport === 'websocket' ? root.replace(/^http/, 'ws') : root;

const make = (Client, options = {}) =>
  new Client([{ transport, endpoint: `${scheme}connection/${transport}` }], {
    websocket: WebSocket,
    eventsource: EventSource,
    fetch,
    readableStream: ReadableStream,
    emulationEndpoint: `${root}emulation`,
    minReconnectDelay: 50,
    maxReconnectDelay: 200,
    timeout: 60_000,
    ...options,
  });

// The context of the next event of this name.
const next = (source, event) => new Promise((resolve) => source.once(event, resolve));

// Calls `read` 20 times a second, within the server's bound of commands, until `test` is true of its
// answer, which it returns.
async function poll(read, test) {
  for (;;) {
    const answer = await read();
    if (test(answer)) return answer;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

// A connected client.
async function connected(options) {
  const client = make(Centrifuge, options);
  const first = next(client, 'connected');
  client.connect();
  client.first = await first;
  return client;
}

// A subscription, with a list of its publications in `heard`.
async function subscribed(client, channel, options = {}) {
  const subscription = client.newSubscription(channel, options);
  subscription.heard = [];
  subscription.on('publication', ({ data }) => subscription.heard.push(data));
  subscription.first = next(subscription, 'subscribed');
  subscription.subscribe();
  await subscription.ready(60_000);
  return subscription;
}

async function post(path, value) {
  const answer = await fetch(`${root}${path}`, { method: 'POST', body: JSON.stringify(value) });
  return answer.json();
}

// A token with these claims, signed by HS256 with the secret of the server under test.
function token(claims, seconds = 3600) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const exp = Math.floor(Date.now() / 1000) + seconds;
  const signed = `${part({ alg: 'HS256' })}.${part({ sub: 'ann', exp, ...claims })}`;
  const signature = createHmac('sha256', process.env.TOKEN_SECRET).update(signed);
  return `${signed}.${signature.digest('base64url')}`;
}

const tools = { channel: '', transport, connected, subscribed, next, poll, post, make, token, Centrifuge, ProtobufCentrifuge };
const AsyncFunction = (async () => {}).constructor;
const results = {};
for (const [name, text] of Object.entries(JSON.parse(readFileSync(0, 'utf8')))) {
  const story = new AsyncFunction(...Object.keys(tools), text);
  try {
    results[name] = await story(...Object.values({ ...tools, channel: `open:${name}.${transport}` }));
  } catch (error) {
    results[name] = { error: error.stack ?? error };
  }
}
console.log(JSON.stringify(results));
process.exit();
