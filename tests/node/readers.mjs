// Clients on the URL of one channel: `node readers.mjs URL OPTIONS CLIENT...`, with options of the
// clients of Server-Sent Events as JSON. Prints a JSON list a line for each thing that happens, until it is ended: the
// client, what happened, and the details.

import { fetchEventSource } from '@microsoft/fetch-event-source/lib/cjs/index.js';
import { Centrifuge } from 'centrifuge';
import { EventSource } from 'eventsource';
import ReconnectingEventSource from 'reconnecting-eventsource';
import WebSocket from 'ws';

const [url, text, ...names] = process.argv.slice(2);
const options = JSON.parse(text);
const NAMED = ['pushserver-subscribed', 'pushserver-reset'];

const sayFor = (name) => (what, context) => console.log(JSON.stringify([name, what, context]));

function follow(source, say) {
  const event = ({ type, data, lastEventId }) => say('event', { type, data, id: lastEventId });
  source.onopen = () => say('open', null);
  source.onerror = () => say('error', source.readyState);
  source.onmessage = event;
  for (const type of NAMED) {
    source.addEventListener(type, event);
  }
}

function centrifuge(transport) {
  return (say) => {
    const [root, channel] = url.split('channels/');
    const scheme = transport === 'websocket' ? root.replace(/^http/, 'ws') : root;
    const client = new Centrifuge([{ transport, endpoint: `${scheme}connection/${transport}` }], {
      websocket: WebSocket,
      eventsource: EventSource,
      fetch,
      readableStream: ReadableStream,
      emulationEndpoint: `${root}emulation`,
      minReconnectDelay: 100,
      maxReconnectDelay: 500,
      timeout: 60_000,
    });
    client.on('connecting', ({ code, reason }) => say('connecting', { code, reason }));
    const subscription = client.newSubscription(channel);
    subscription.on('subscribed', (context) =>
      say(context.wasRecovering && !context.recovered ? 'reset' : 'begin', context),
    );
    subscription.on('publication', (context) => say('publication', context));
    subscription.subscribe();
    client.connect();
  };
}

const clients = {
  'centrifuge, websocket': centrifuge('websocket'),
  'centrifuge, http_stream': centrifuge('http_stream'),
  'centrifuge, sse': centrifuge('sse'),
  eventsource(say) {
    // Its users give headers by `fetch`.
    const { headers = {}, ...rest } = options;
    const fetcher = (target, init) =>
      fetch(target, { ...init, headers: { ...init.headers, ...headers } });
    follow(new EventSource(url, { fetch: fetcher, ...rest }), say);
  },
  'reconnecting-eventsource'(say) {
    follow(
      new ReconnectingEventSource(url, {
        eventSourceClass: EventSource,
        max_retry_time: 500,
        ...options,
      }),
      say,
    );
  },
  'fetch-event-source'(say) {
    // It is written for pages.
    globalThis.window = globalThis;
    globalThis.document = { addEventListener() {}, removeEventListener() {} };
    fetchEventSource(url, {
      openWhenHidden: true,
      ...options,
      async onopen(response) {
        say('open', null);
        if (!response.ok) {
          say('refused', { status: response.status, body: await response.text() });
        }
      },
      onmessage: ({ id, event: type, data }) => say('event', { type: type || 'message', data, id }),
      // By its README: throwing here is how to come back after the end of a response.
      onclose() {
        throw new Error('closed');
      },
      onerror: () => 100,
    });
  },
};
for (const name of names) {
  clients[name](sayFor(name));
}
// A client that waits to connect again does not keep Node alive.
setInterval(() => {}, 1_000_000);
