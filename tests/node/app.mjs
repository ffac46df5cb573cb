// The official JavaScript client, told what to do: `node app.mjs WEBSOCKET_URL CONNECT_DATA [COOKIE]`.
// Takes one JSON list a line, the name of a method of the client and its arguments, such as
// ["rpc", "greet", "Ada"]; ["subscribe", "news", OPTIONS] is a subscription of its own. The option
// `state` is the position that `getState` returns.
// Prints one JSON object a line for each answer and for each thing that happens.

import { createInterface } from 'node:readline';
import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';

const [url, data, cookie] = process.argv.slice(2);
const say = (what, context) => console.log(JSON.stringify({ [what]: context }));

class WithCookie extends WebSocket {
  constructor(address, protocols) {
    super(address, protocols, { headers: cookie ? { cookie } : {} });
  }
}

const client = new Centrifuge(url, {
  websocket: WithCookie,
  minReconnectDelay: 100,
  maxReconnectDelay: 500,
  timeout: 60_000,
  data: data ? JSON.parse(data) : undefined,
});
const events = ['connecting', 'connected', 'disconnected', 'message', 'publication', 'error'];
for (const event of [...events, 'subscribed', 'unsubscribed']) {
  client.on(event, (context) => say(event, context));
}

function subscribe(channel, { state, ...options } = {}) {
  if (state !== undefined) {
    options.getState = async () => {
      say('asked for the state', channel);
      return state;
    };
  }
  const subscription = client.newSubscription(channel, options);
  for (const event of ['subscribed', 'publication', 'join', 'unsubscribed', 'error']) {
    subscription.on(event, (context) => say(`own ${event}`, context));
  }
  subscription.subscribe();
}

client.connect();
for await (const line of createInterface({ input: process.stdin })) {
  const [method, ...args] = JSON.parse(line);
  if (method === 'subscribe') {
    subscribe(...args);
  } else {
    Promise.resolve(client[method](...args)).then(
      (answer) => say('answer', answer ?? null),
      (error) => say('refused', { code: error.code, message: error.message }),
    );
  }
}
