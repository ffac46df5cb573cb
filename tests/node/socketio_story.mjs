// What a client of Socket.IO does in the tests, in Node and in a browser: connects to the namespace
// and to two more on the same connection, calls the application's handlers, and says what came back;
// then each event, connect and disconnect.

const MANY = 500;

export async function play(io, url, namespace, transports, say) {
  const socket = io(`${url}${namespace}`, {
    transports,
    auth: { name: 'ada' },
    reconnectionDelay: 50,
    reconnectionDelayMax: 100,
  });
  const next = (event) => new Promise((done) => socket.once(event, done));
  const ask = (event, ...values) => socket.timeout(60_000).emitWithAck(event, ...values);
  const inOrder = (numbers) =>
    numbers.length === MANY && numbers.every((number, n) => number === n);
  const list = (value) => [...new Uint8Array(value)];

  socket.on('question', (value, done) => done({ n: value.n + 1 }));
  socket.on('bytes_question', (value, done) => done(value.slice(1), 'and', value));
  socket.on('silence', () => {});
  socket.on('published', (value) => say('published', value));
  socket.on('connect_error', (error) => say('connect_error', error.message));
  socket.on('disconnect', (reason) => say('disconnect', reason));

  say('welcome', await next('welcome'));
  if (transports.length === 2 && socket.io.engine.transport.name !== transports[1]) {
    await new Promise((done) => socket.io.engine.once('upgrade', done));
  }
  say('transport', socket.io.engine.transport.name);

  const back = await ask('same', { bytes: new Uint8Array([0, 30, 255]), text: 'grün', list: [1, [null]] });
  say('same', { ...back, bytes: list(back.bytes) });
  const blob = next('blob');
  socket.emit('send_blob');
  say('blob', list(await blob));
  say('asked', [await ask('ask', { n: 1 }), await ask('ask_async', { n: 2 }), await ask('ask_bytes')]);
  say('late', await ask('ask_silence'));
  const refused = socket.timeout(100).emitWithAck('refuse');
  say('refused', await refused.catch((error) => error.message));

  const calls = Array.from({ length: MANY }, (_, n) => ask('same', n));
  say('acknowledged', inOrder(await Promise.all(calls)));
  for (const event of ['count', 'publish']) {
    const numbers = [];
    const last = new Promise((done) =>
      socket.on(event, (number) => numbers.push(number) === MANY && done()),
    );
    socket.compress(false).emit(`${event}_many`, namespace, MANY);
    await last;
    say(event, inOrder(numbers));
  }

  const other = socket.io.socket('/other');
  other.connect();
  await new Promise((done) => other.once('connect', done));
  say('other', await new Promise((done) => other.emit('same', 'x', 'y', (...back) => done(back))));
  // Gets nothing before the restart, so it has no offset.
  const quiet = socket.io.socket(`/${namespace}-quiet`);
  quiet.on('published', (value) => say('quiet', value));
  quiet.connect();
  await new Promise((done) => quiet.once('connect', done));

  const reconnected = next('connect');
  socket.io.engine.close();
  await reconnected;
  say('reconnected', socket.recovered);
  socket.on('connect', () => say('connect', socket.recovered));
  quiet.on('connect', () => say('quiet connect', quiet.recovered));
  if (!quiet.connected) await new Promise((done) => quiet.once('connect', done));
  say('ready', true);
}
