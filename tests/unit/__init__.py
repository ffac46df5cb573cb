"""Unit tests: each module alone, without processes, without a network, on a clock of the test.

The folders are those of the package. Where a real socket, thread or file is the subject, the test
uses it on loopback or in a temporary folder, and waits for an event, never for a time.

Which fake is for what; each is in `fakes`, in the file behind it:

Time and reactors
    Time          tools         a clock and few calls at a time; `now` in Unix seconds
    Clock         (Twisted)     a reactor for code that only schedules calls
    ThreadClock   source_tools  Clock with `callFromThread`; `take` waits for calls from threads
    LifeCycle     reactors      Clock with a start, an end, signals and `stop`
    memory_reactor  web         listening ports as well: Twisted's MemoryReactorClock
    StillReactor  remote        the real reactor, but its time stands still
    TestReactor   (package)     pushserver.testing.reactor: for tests of an application
Threads
    InlinePool    (package)     a thread pool that calls at once, in pushserver.testing.reactor
    FullPool      reactors      a thread pool that is full
    Thread, Run   store/runs    the thread of the store, and a run of a server with a real file
    FakeCommitter test_sync_broker  commits that end when the test says so, in `store`
    broken_disk   store         a program with a real file whose writes fail
    World         store/model   a node on a store of each kind, beside plain lists of its channels

The server, from the inside out
    make_broker, make_hub, make_node
                  tools         one layer and those below it; `publish` and `deliver` use them
    Watcher       tools         a subscriber of the hub that keeps its frames
    FakeOutlet    tools         an outlet of the fan-out, without a socket
    FakeTransport tools         the transport of a session or stream; checks that nothing follows
                                the end
    Client        tools         a client of the Centrifuge protocol on a session and FakeTransport
    Reader        tools         the same for a one-way stream
    IoClient      socketio      the same for Socket.IO
    Program       flask_program a Flask program with a SocketIO, on a TestServer
    Server        web           the whole server on a memory_reactor, for bytes in and bytes out
    WsgiServer    wsgi          the same with a WSGI application, whose threads are real
    Line          web           a TCP connection to it; may be slow to read, full, cut
    Socket        web           a WebSocket to it
    connect, head heads         handshakes byte by byte, on every kind of transport
    compare       heads         the same visit to two servers, with shortcuts and without

Several processes
    Cluster       cluster       an author and its followers, with links on which bytes wait

The fan-out, with sockets that accept as many bytes as the test says
    FakeSocket    sockets       the socket below Twisted's own TCP transport
    sockets.Peer  sockets       one connection on it, with its outlet
    Member        members       a subscriber of the hub on it; a Watcher with an outlet
    SlowTime      members       a Time on which each send takes time

Tokens
    token, private_key, jwks
                        tokens        tokens of each algorithm, and the keys of their issuer

Sources
    Feed: Recorder      recorder      keeps all publications; for sources on a Clock
    Feed: FakeFeed      remote        reports each step of a source on a StillReactor
    SourceBench         source_tools  an environment for real runners and feeds
    Script              source_tools  a source that is one coroutine function
    Remote, Visit       remote        an HTTP server whose answers the test writes, one by one

Around them
    Log           web           a context that records events of the log, from a level on
    `trouble`     conftest      warnings and failures in the log of a test; it must take them all
    HttpServer    tests.http_server  an HTTP server in a thread, for code that blocks
    programs      tools         sequences of steps for hypothesis, half of them long
"""
