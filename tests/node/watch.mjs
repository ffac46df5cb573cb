// The official JavaScript client, watching a channel: `node watch.mjs WEBSOCKET_URL CHANNEL`.
// Prints one JSON object a line for each thing that happens, until it is ended.

import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';

const [url, channel] = process.argv.slice(2);
const say = (what, context) => console.log(JSON.stringify({ [what]: context }));

const client = new Centrifuge(url, { websocket: WebSocket, minReconnectDelay: 100 });
for (const event of ['connecting', 'connected', 'disconnected', 'error']) {
  client.on(event, (context) => say(event, context));
}

const subscription = client.newSubscription(channel);
for (const event of ['subscribed', 'publication', 'unsubscribed']) {
  subscription.on(event, (context) => say(event, context));
}
subscription.on('error', (context) => say('subscription_error', context));

subscription.subscribe();
client.connect();
