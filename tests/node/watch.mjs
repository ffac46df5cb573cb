// The official JavaScript client over one transport, watching a channel, and then perhaps
// publishing to it: `node watch.mjs ROOT_URL TRANSPORT CHANNEL [JSON]`.
// Prints one JSON object a line for each thing that happens, until it is ended.

import { Centrifuge } from 'centrifuge';
import { EventSource } from 'eventsource';
import WebSocket from 'ws';

const [root, transport, channel, data] = process.argv.slice(2);
const say = (what, context) => console.log(JSON.stringify({ [what]: context }));

const scheme = transport === 'websocket' ? root.replace(/^http/, 'ws') : root;
const client = new Centrifuge([{ transport, endpoint: `${scheme}connection/${transport}` }], {
  websocket: WebSocket,
  eventsource: EventSource,
  fetch,
  readableStream: ReadableStream,
  emulationEndpoint: `${root}emulation`,
  minReconnectDelay: 100,
  maxReconnectDelay: 1000,
  timeout: 60_000,
});
for (const event of ['connecting', 'connected', 'disconnected', 'error']) {
  client.on(event, (context) => say(event, context));
}

const subscription = client.newSubscription(channel, { joinLeave: true });
for (const event of ['subscribed', 'publication', 'unsubscribed', 'join', 'leave']) {
  subscription.on(event, (context) => say(event, context));
}
subscription.on('error', (context) => say('subscription_error', context));
if (data !== undefined) {
  subscription.on('subscribed', async () => {
    try {
      say('published', await subscription.publish(JSON.parse(data)));
    } catch (error) {
      say('refused', { code: error.code, message: error.message });
    }
  });
}

subscription.subscribe();
client.connect();
