"""Every cache and container of the server has a bound, so that no peer can make it grow for ever.

The source of the package is searched for caches, and for attributes that hold a container; each
must be in the table with its bound. Where that is easy, a test fills it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.web.http_headers import _nameEncoder

import pushserver
from pushserver.auth import origin
from pushserver.auth.origin import loopback_address
from pushserver.channels.idempotency import KeyEntry, Keys
from pushserver.channels.publication import Receipt
from pushserver.config.limits import Limits
from pushserver.errors import Unavailable
from pushserver.sessions.replay_cache import MOST_BYTES, Replays
from pushserver.web.first_bytes import MAX_NAME_BYTES
from pushserver.web.refusal_log import MAX_ADDRESSES
from tests.unit.fakes.tools import Client, make_node
from tests.unit.fakes.web import Line, Server, parse, request

PACKAGE = Path(pushserver.__file__).parent

CONNECTIONS = "one for each open connection, or each of its channels (channels_per_client)"
CONFIGURED = "as the configuration, or the code of the application, says; no peer adds to it"
STARTED = "filled at the start, or while it is put together"
ONCE = "of one call, or one message or document of a bounded size"
HISTORY = "history_size, history_bytes and history_ttl bound each channel's"
WAITING = "what waits for the next commit: the store refuses more than so many bytes"
COUNTED = "labels are words of the code and close codes below 5,000"
TESTING = "of a test of an application, not of a server"

BOUNDS = {
    "web.resource.Refusal.headers": ONCE,
    "app.client.Client.headers": "the head of one request, until the `connect` handler returns",
    "sessions.visit.Visit.headers": "the head of one request, until the `connect` handler returns",
    "app.app.App.sources": CONFIGURED,
    "app.app.App.fragments": CONFIGURED,
    "app.app.App.fragments_of_namespaces": CONFIGURED,
    "resources.fragment_functions.FunctionsOfChannels.channels": CONFIGURED,
    "resources.fragment_functions.FunctionsOfChannels.namespaces": CONFIGURED,
    "app.app.App.templates_of_channels": CONFIGURED,
    "resources.fragment_functions.PublicationView.tags": ONCE,
    "flask.calling.Calling.exception_handlers": CONFIGURED,
    "flask.handlers.Registry._events": CONFIGURED,
    "flask.handlers.Table._functions": CONFIGURED,
    "flask.members.Members._by_sid": CONNECTIONS,
    "flask.members.Members._joining": CONNECTIONS,
    "flask.members.Members._rooms": "MAX_ROOMS for each client",
    "flask.context.event": ONCE,
    "flask.members.Member.environ": "the head of the request that opened the connection",
    "flask.members.Member.rooms": "MAX_ROOMS",
    "flask.options.namespaces": CONFIGURED,
    "flask.options.origins": CONFIGURED,
    "flask.options.Options.namespaces": CONFIGURED,
    "flask.options.Options.origins": CONFIGURED,
    "flask.socketio.SocketIO._namespaces": CONFIGURED,
    "flask.test_client.SocketIOTestClient.connected": TESTING,
    "flask.test_client.SocketIOTestClient.queue": TESTING,
    "app.dispatch.Dispatcher._starting": "connections that came before the start was over",
    "app.dispatch.Dispatcher._stopwatches": CONFIGURED,
    "app.call.TimeLimits._timers": "a call of a handler each, and those are bounded",
    "app.dispatch.Dispatcher.clients": CONNECTIONS,
    "hub.audience.Audience.groups": "a group for each format, of which there are some ten",
    "hub.audience.Audience.joining": CONNECTIONS,
    "hub.audience.Audience.listed": CONNECTIONS,
    "hub.audience.Audience.parts": "a part for each format",
    "hub.audience.Audience.queue": "FanOut.room refuses a publication over QUEUE_BYTES",
    "hub.audience.Audience.skips": "of a publication in the queue: those that its draft names",
    "hub.audience.Group.others": CONNECTIONS,
    "hub.audience.Group.ready": CONNECTIONS,
    "wsgi.answer.Answer._ahead": "AHEAD_BYTES",
    "wsgi.gateway.Gateway._calls": "wsgi_threads and wsgi_waiting",
    "usercode.thread_pool.ThreadPool._running": CONFIGURED,
    "usercode.thread_pool.ThreadPool._idle": "handler_threads",
    "usercode.thread_pool.ThreadPool._waiting": "WAITING for each handler; then no client enters",
    "usercode.thread_pool.ThreadPool._workers": (
        "handler_threads, and one for each handler that must be called"
    ),
    "channels.channel.Channel._rows": HISTORY,
    "app.client.Client.state": "the application's",
    "config.settings.Auth.api_keys": CONFIGURED,
    "config.settings.Auth.keys": CONFIGURED,
    "config.settings.KeySettings.channels": CONFIGURED,
    "config.settings.Log.levels": CONFIGURED,
    "server.log_output.Levels._parts": CONFIGURED,
    "config.settings.KeySettings.may": CONFIGURED,
    "config.settings.Auth.token_algorithms": CONFIGURED,
    "config.settings.Auth.token_audience": CONFIGURED,
    "config.settings.Auth.token_keys": CONFIGURED,
    "server.jwks.PublishedKeys._waiting": "one for each request or command that waits for a key",
    "config.settings.Config.channels": CONFIGURED,
    "config.settings.Config.namespaces": CONFIGURED,
    "config.settings.Config.sources": CONFIGURED,
    "config.settings.Server.allowed_origins": CONFIGURED,
    "config.settings.Server.foreign_variables": CONFIGURED,
    "config.settings.Server.listen": CONFIGURED,
    "command_line.piping.Piper._keyed": "KEYED_LINES, in the program that publishes standard input",
    "resources.bulk.Bulks._waiting": "one for each body, MOST_BYTES of all together",
    "resources.bulk._Group.waiting": ONCE,
    "server.reloading.Watched._files": CONFIGURED,
    "config.settings.Server.names": CONFIGURED,
    "config.settings.Server.trusted_proxies": CONFIGURED,
    "config.settings.Source.options": CONFIGURED,
    "diagnosis.client_findings.Answer.headers": "of a command, not of a server",
    "diagnosis.client_findings.Measured.transports": "of a command, not of a server",
    "diagnosis.facts.RequestFacts.headers": ONCE,
    "diagnosis.recent_refusals.RecentRefusals._causes": "MAX_CAUSES",
    "hub.audience.Subscriber.audiences": "channels_per_client, or one of several together",
    "sessions.base.Conversation.audiences": "channels_per_client, or one of several together",
    "sessions.long_poll.LongPoll.audiences": "one",
    "web.exchange.Exchange._head": "MAX_HEAD and one read",
    "web.exchange.Owner.waiting": "at_once",
    "server.inside.Relays._workers": "one for each other worker",
    "web.relay.Relay.upgraded": "upgraded_at_once",
    "web.relay.Relay.waiting": "at_once",
    "web.splice.Splice._ends": "two",
    "web.first_bytes.Head.prepath": ONCE,
    "web.first_bytes._Parsed.args": "KEPT_HEADS heads of MAX_KEPT_BYTES",
    "web.first_bytes._Parsed.facts": "a few for each of KEPT_HEADS heads",
    "web.first_bytes._Parsed.fields": "KEPT_HEADS heads of MAX_KEPT_BYTES",
    "web.deadlines.Deadlines._until": CONNECTIONS,
    "web.short_post.Post.prepath": "of the last head of a connection, of 16 KB at most",
    "web.short_post.Answers._heads": "one for each of two statuses",
    "app.handlers.HandlerRegistry._handlers": CONFIGURED,
    "hub.fanout.FanOut._line": "an audience each, and those are of open connections",
    "hub.fanout.FanOut._resting": "an audience each, and those are of open connections",
    "hub.fanout.FanOut._schedules": "an audience each, and those are of open connections",
    "hub.fanout.FanOut.parts": "of an audience: a part for each format",
    "app.failures.HandlerFailures._busy": CONFIGURED,
    "app.failures.HandlerFailures._last": CONFIGURED,
    "app.failures.HandlerFailures._late": CONFIGURED,
    "app.failures.HandlerFailures._raised": CONFIGURED,
    "resources.static.StaticFiles.contentEncodings": CONFIGURED,
    "resources.static.StaticFiles.indexNames": CONFIGURED,
    "protocols.formats.HistoryObject.publications": ONCE,
    "channels.history.History._pinned": "the channels of one commit",
    "channels.history.History._unswept": "channels",
    "channels.room.Room.channels": "channels, and those of one sync commit",
    "channels.room.Room._held": "channels",
    "channels.room.Room.expected": "channels",
    "channels.room.Room._idle": "channels",
    "server.room_log.RoomLog._written": COUNTED,
    "store.checking.Checked.problems": "at most MOST_PROBLEMS",
    "store.sqlite.Changes.forgotten": "the channels of a file, at a start",
    "store.sqlite.Changes.states": "channels",
    "hub.metrics.Metrics.handler_failures": CONFIGURED,
    "hub.metrics.Metrics.template_failures": CONFIGURED,
    "hub.metrics.Metrics.handler_seconds": CONFIGURED,
    "hub.metrics.Metrics.made_room": COUNTED,
    "server.epoll_limit.LongestTurn._recent": "SECONDS",
    "web.hosts.Hosts._cache": "256 entries of 255 characters",
    "channels.history.History._followed": "the channels that a follower has: channels",
    "cluster.author.Author._links": "as History._followed, and the processes of the server",
    "cluster.uplink.Uplink._parts": "the images of an answer, which are history then",
    "cluster.author.FollowerLink._behind": "the calls of a follower that wait",
    "cluster.author.FollowerLink._channels": "as History._followed",
    "cluster.link.Link._queue": "UNSENT_BYTES, and one frame",
    "cluster.messages.Counted.counts": "one message",
    "cluster.messages.Counted.charges": "one message",
    "cluster.shared_bounds.BoundsLink.numbers": CONNECTIONS,
    "cluster.shared_bounds.BoundsLink._changes": "of one turn of the reactor",
    "cluster.shared_bounds.BoundsLink._charges": "of one turn of the reactor",
    "cluster.shared_bounds.SharedBounds._counts": "connections and users",
    "cluster.shared_bounds.SharedBounds._links": "the processes of the server",
    "cluster.shared_bounds.SharedBounds._own": CONNECTIONS,
    "cluster.shared_bounds.SharedBounds._rates": "one for each of some settings",
    "cluster.author.FollowerLink._expected": "the calls of a follower that wait",
    "cluster.messages.Frames._parts": "the bytes of one message",
    "cluster.messages.Attach.points": "one message",
    "cluster.messages.Follow.points": "one message",
    "cluster.messages.Images.images": "one message",
    "cluster.messages.Images.ends": "MOST_LOGS",
    "cluster.messages.Follow.names": "one message",
    "config.settings.Broker.shards": CONFIGURED,
    "redis.layout.Layout._seen": "MOST_LOGS",
    "redis.agreement.Agreement._claims": "MOST_LOGS",
    "redis.agreement.Agreement._told": "MOST_LOGS",
    "redis.layout.Layout._wrong": "MOST_LOGS",
    "redis.shards.ShardedLog.logs": "MOST_LOGS",
    "redis.shards.ShardedLeases._complete": "sources",
    "server.broker_parts.BrokerParts._addresses": "MOST_LOGS",
    "channels.sharded_history.ShardedHistory._ends": "MOST_LOGS",
    "cluster.messages.Failed.attributes": "one message",
    "cluster.messages.Logged.fields": "one message",
    "server.workers.worker_log.WorkerLog._events": "KEPT, and a line for what was dropped",
    "cluster.messages.Leave.channels": "one message",
    "hub.follower.Image.rows": "one message",
    "hub.follower.Image.ages": "one message",
    "cluster.calls.Calls._answers": "WAITING_BYTES",
    "redis.leases.Leases._leases": "the sources",
    "redis.log.RedisLog._told": "REASONS",
    "redis.log.RedisLog._waiting": "the start of the server",
    "redis.presence_scripts.Found.members": ONCE,
    "redis.presence_scripts.Found.sizes": ONCE,
    "redis.roll.Roll._changes": "two for each subscription, of those that Redis knows too",
    "redis.rosters.Others.others": ONCE,
    "redis.rosters.Rosters._counts": "the watched channels of all servers",
    "redis.rosters.Rosters._queue": "some of `_rosters`",
    "redis.rosters.Rosters._rosters": "observed channels, of announced_audience clients each",
    "redis.rosters.Rosters.members": "announced_audience",
    "redis.rosters.Rosters.waiting": "WAITING, and ONCE for each call that reads a channel",
    "redis.tail.Load._changes": "LATE_BYTES",
    "redis.tail.Load.points": "a call of `Follower.load`, or the followed channels",
    "redis.tail.Tail._entries": "AT_ONCE: none is read while some wait",
    "redis.tail.Tail._loads": "one for each reader that waits for a channel",
    "redis.wire.Wire._answers": "the drafts of a Writer, WAITING_BYTES, and a few other calls",
    "redis.wire.Wire._held": "as `_answers`",
    "redis.wire.Wire._refused": "some of those of `_answers`",
    "redis.writer.Writer._behind": "WAITING_BYTES, and a request for each clear",
    "redis.writer.Writer._missing": "some of `_waiting`",
    "redis.writer.Writer._settled": "a call for each stop",
    "redis.writer.Writer._waiting": "WAITING_BYTES",
    "cluster.calls.Calls._settled": "a call for each stop",
    "cluster.remote.RemotePeer.audiences": CONNECTIONS,
    "cluster.handlers.RemoteHandlers._admitted": CONNECTIONS,
    "cluster.messages.AskEvent.arguments": "one message",
    "cluster.messages.Handled.events": CONFIGURED,
    "cluster.measures.Measure.failures": "MAX_FAILURES",
    "cluster.measures.Measure.readers": "MOST of each process",
    "cluster.measures.Measures._processes": "a linked process and a lost one for each worker",
    "cluster.measures.ProcessLink.opened": "labels are the names of formats",
    "cluster.measures._Process.closed": "labels are the names of formats",
    "cluster.messages.Proof.channels": "one message",
    "cluster.remote.RemotePeers._ending": CONNECTIONS,
    "cluster.remote.RemotePeers._peers": CONNECTIONS,
    "cluster.roster.Roster._numbers": CONNECTIONS,
    "cluster.roster.Roster._observed": CONNECTIONS,
    "cluster.roster.Roster._peers": CONNECTIONS,
    "hub.follower.Follower._idle": "channels",
    "hub.follower.Follower._still_idle": "channels",
    "hub.follower.Follower._unreleased": "those of `_loading`",
    "hub.follower.Follower._loading": "the loads that wait: WAITING_BYTES of the uplink",
    "hub.probe.Probe.audiences": "one",
    "hub.hub.Hub._arrivals": "the subscriptions whose channels are loaded; removed after that",
    "hub.hub.Hub._audiences": "dissolved when the last of its subscribers leaves",
    "hub.hub.Hub._by_channel": "dissolved when the last of its subscribers leaves",
    "hub.hub.Hub.on_join": STARTED,
    "hub.hub.Hub.on_leave": STARTED,
    "hub.hub.Following.positions": ONCE,
    "channels.idempotency.Keys._entries": (
        "idempotency_keys, of 128 characters each, for five minutes"
    ),
    "reading.Recent.publications": ONCE,
    "reading.Recent.position": ONCE,
    "channels.idempotency.Keys._counts": "a publisher for each key at most",
    "store.sync_broker.SyncBroker._pending_keys": WAITING,
    "transports.websocket.lean.LeanShell.__dict__": "the attributes of one connection",
    "store.source_memory.SourceMemory._untaken": CONFIGURED,
    "store.source_memory.SourceMemory._values": CONFIGURED,
    "hub.metrics.Metrics.closed": "labels are the names of formats",
    "hub.metrics.Metrics.denied": COUNTED,
    "hub.metrics.Metrics.ended": COUNTED,
    "hub.metrics.Metrics.opened": "labels are the names of formats",
    "hub.metrics.Metrics.recoveries": COUNTED,
    "hub.metrics.Metrics.refusals": COUNTED,
    "opener._opener": "two",
    "server.ports.Ports._claimed": "the sockets that systemd passed",
    "transports.websocket.handshake._deflate_offers": "64 entries, of 16 KB each (MAX_HEAD_BYTES)",
    "transports.limited_log.LimitedLog._limiters": "MAX_CAUSES, and one",
    "auth.wrong_keys.group": "1,024 entries, of the text of an address each",
    "auth.origin.loopback_address": "256 entries, of 255 characters each",
    "auth.origin._valid_host": "256 entries of 255 characters",
    "transports.backlog.Backlog._pieces": "queue_bytes; a peer that leaves more unread is dropped",
    "sessions.directory.Directory._by_client": CONNECTIONS,
    "sessions.directory.Directory._by_secret": CONNECTIONS,
    "sessions.directory.Directory._by_user": CONNECTIONS,
    "sessions.directory.Directory._readers": CONNECTIONS,
    "sessions.directory.Directory._not_admitted": CONNECTIONS,
    "sessions.peers.Peers._due": CONNECTIONS,
    "sessions.peers.Peers._second": CONNECTIONS,
    "sessions.peers.Peers._waking": CONNECTIONS,
    "sessions.peers.Peers._when_empty": "a call for each stop of the server",
    "web.pipeline.DeadlineChannel._dataBuffer": (
        "MAX_BEHIND and one read; then the peer is not read"
    ),
    "web.pipeline.DeadlineChannel._pieces": "PIECE",
    "hub.presence.Presence._infos": "the subscriptions that the server API makes, with a chan_info",
    "hub.presence.Presence._observers": CONNECTIONS,
    "app.result.Published._waiting": "those who await one publication: the application's",
    "testing.reactor.TestReactor._looks": TESTING,
    "sessions.replay_cache.Replays._encoded": "MOST_BYTES, names and all",
    "server.service.PushService._clocks": STARTED,
    "server.service.PushService._links": STARTED,
    "server.running_sources.RunningSources._ending": "those of the reloads in `stop_seconds`",
    "server.links.AuthorPort._links": "the processes of the server",
    "server.ports.Ports._listeners": STARTED,
    "server.ports.Ports._held": STARTED,
    "server.workers.control.Start.sockets": STARTED,
    "server.workers.crew.Crew._left": "a worker for each file in the server's own folder",
    "server.workers.holding.HeldPort._sockets": STARTED,
    "server.workers.holding.Holding._left": "those of Crew._left",
    "server.workers.holding.Holding._taken": "those of Crew._left",
    "server.workers.left.Left.sockets": "253 (SCM_MAX_FD) in each of 100 reads",
    "server.workers.supervisor.Supervisor._left": "those of Crew._left",
    "server.workers.supervisor.Supervisor._on_ready": STARTED,
    "server.workers.supervisor.Supervisor.slots": STARTED,
    "server.ports.Ports._metrics_listeners": STARTED,
    "server.ports.Ports.sites": STARTED,
    "server.live.Live._waiting": "the requests of INTERVAL_SECONDS, of keys with the scope admin",
    "server.log_output.Levels.defaults": STARTED,
    "server.log_output.defaults": STARTED,
    "server.running_sources.RunningSources._sources": STARTED,
    "server.options.Options.optFlags": CONFIGURED,
    "server.options.Options.optParameters": CONFIGURED,
    "sessions.working.Working._queue": "queued_commands; WAITING_BYTES of Socket.IO",
    "auth.excess.Excesses._logged": "LOGGED_AT_ONCE for each setting",
    "auth.excess.Excesses._suppressed": "the settings",
    "auth.quotas.Connections._by_name": CONNECTIONS,
    "resources.api._Channels.channels": ONCE,
    "resources.api._Commands.commands": ONCE,
    "auth.quotas.Users._counts": CONNECTIONS,
    "auth.publications.Publications.rates": "one for each of three settings",
    "transports.polling.Pollings._by_id": CONNECTIONS,
    "transports.polling.Pollings._left": "LEFT_CLIENTS",
    "transports.unsent.Unsent._backlogs": CONNECTIONS,
    "transports.unsent.Unsent._counts": "the pieces of all backlogs: unsent_bytes",
    "web.turned_away.Exits.waiting": "WAITING",
    "web.proxied.ProxiedFactory._limiters": "two",
    "web.proxied.ProxiedFactory.waiting": "connections of trusted proxies, request_seconds each",
    "config.limits.Limits.exempt_networks": CONFIGURED,
    "resources.assets.Assets._urls": "the files that the templates name",
    "resources.pages.is_bundled": "one answer",
    "resources.templates._Compiled._kept": "the files of templates",
    "resources.fragments.Fragments._made": "MAX_BYTES: test_fragments.py fills it",
    "resources.fragments.Fragments._representations": "ACTIONS and MODES",
    "resources.fragments.Fragments._shares": CONFIGURED,
    "resources.own_pages.Reading.loaded": "MOST_CHANNELS",
    "resources.own_pages.Reading._read": "MOST_CHANNELS",
    "resources.own_pages.Recent.position": "two",
    "resources.pages.Pages._shares": "the templates of pages",
    "resources.template_failures.TemplateFailures._counts": CONFIGURED,
    "resources.template_failures.TemplateFailures._last": CONFIGURED,
    "resources.template_failures.TemplateFailures._limiters": CONFIGURED,
    "resources.variants.VariantCache._entries": "MAX_VARIANT_BYTES: test_static.py fills it",
    "resources.variants.Variants.codings": "two, of one file",
    "web.refusal_log.RefusalLog._rates": "MAX_ADDRESSES",
    "usercode.turns.Turns._waiting": "one of each connection",
    "sessions.callbacks.Broadcast.frames": "a frame for each format",
    "sessions.namespace.Namespace._after_connect": "the messages of one `connect` handler",
    "sessions.namespace.Namespace._calls": "MAX_CALLS",
    "sessions.namespace.Namespace._ends": "the channels that the application puts a client into",
    "sessions.namespace.Namespace.audiences": "the same, and the channel of the namespace",
    "sessions.namespace.Namespace.invited": "the channels that the application puts a client into",
    "sessions.socketio.Incoming.attachments": "MAX_ATTACHMENTS, and WAITING_BYTES",
    "sessions.socketio.SocketIO._ended": "channels_per_client",
    "sessions.socketio.SocketIO._leaving": "those of `namespaces`",
    "sessions.socketio.SocketIO.namespaces": "channels_per_client",
    "sessions.session.Session.grants": CONNECTIONS,
    "sessions.expiry.ExpiringSession.grants": CONNECTIONS,
    "sessions.expiry.ExpiringSession.invited": "as Session.invited",
    "sessions.refreshing.invited": "channels_per_client",
    "sessions.session.Session.invited": "the channels that the application puts a client into",
    "sessions.session.Session.planned": "the channels of orders, until the connect reply",
    "sessions.namespace.Namespace.planned": "the same",
    "sessions.commands.invited": "channels_per_client",
    "sessions.arriving.Arriving.audiences": "empty",
    "config.convert.type_hints": "the dataclasses of settings",
    "server.signals.SignalHandlers._limiters": STARTED,
    "server.signals.SignalHandlers._waiting": "the numbers of three signals",
    "web.pipeline.Port.channels": CONNECTIONS,
    "web.site.PushSite.channels": CONNECTIONS,
    "sources.http_client.response._Body._pieces": (
        "max_bytes of a document; then the answer is dropped"
    ),
    "sources.types.command.source.Options.environment": CONFIGURED,
    "sources.types.command.source.Options.inherit": CONFIGURED,
    "sources.types.feed.reader._Text.parts": ONCE,
    "sources.types.sse.parser.Parser._data": "the bytes that an event may have",
    "sources.types.sse.parser.Parser._line": "the bytes that an event may have",
    "sources.types.feed.source.Contents.entries": ONCE,
    "sources.types.feed.source.Options.headers": CONFIGURED,
    "sources.types.feed.source._ReaderProcess._waiters": ONCE,
    "sources.types.feed.source._ReaderProcess.output": (
        "what a process writes in its time, of one document"
    ),
    "sources.http_client.fetch.Fetcher._headers": CONFIGURED,
    "sources.types.tail.follower.Follower._files": "the files of one name that is rotated",
    "sources.types.tail.follower.Follower.warnings": "emptied with each poll",
    "sources.functions.values.Values._values": "one, or two if a thread brings one late",
    "sources.types.cron.CronSource._value": CONFIGURED,
    "sources.types.command.source.CommandSource._lines": "the lines of a piece of each pipe",
    "sources.types.sse.source.SseSource._events": "the events of a piece of the stream",
    "sources.registry.SourceTypes._by_name": STARTED,
    "sources.types.lines.Splitter._kept": "max_line_bytes",
    "sources.engine.meter.Meter._seconds": "a minute of seconds",
    "sources.engine.environment.Subscriptions.on_join": STARTED,
    "sources.engine.environment.Subscriptions.on_leave": STARTED,
    "sources.types.json_pointer.Pointer._steps": CONFIGURED,
    "sources.types.json_poll.Options.headers": CONFIGURED,
    "sources.types.json_poll.PollSource._identity": CONFIGURED,
    "sources.types.command.process.Process._chunks": "its pipes are not read while a chunk waits",
    "sources.types.command.process.Process._stop_waiters": "a call for each stop",
    "sources.engine.record.Record._logged": "a deque with a maxlen",
    "sources.http_client.polling.Polling._validators": (
        "two headers of one answer, whose head is bounded"
    ),
    "sources.engine.runner.Runner._stop_waiters": "a call for each stop",
    "sources.types.sse.source.Options.events": CONFIGURED,
    "sources.types.sse.source.Options.headers": CONFIGURED,
    "usercode.fork._closed_in_forks": "one set; sockets and files that their owners keep",
    "usercode.once.Once._waiting": "callers that stop a service",
    "usercode.worker.ThreadWorker._jobs": "one call of a source, or of a handler in its turn",
    "store.batch.Batch.forgotten": WAITING,
    "store.batch.Batch.keys": WAITING,
    "store.batch.Batch.memory": WAITING,
    "store.batch.Batch.rows": WAITING,
    "store.batch.Batch.states": WAITING,
    "store.batcher.Batcher._idle": "one, when the server stops",
    "store.batcher.Batcher._touched": WAITING,
    "auth.identity.Grant.override": "of a token, whose size is bounded",
    "auth.identity.Identity.subs": "of a token, whose size is bounded",
    "store.batcher.Batcher.rows": "of the batch that is being written",
    "store.recorder.BatchRecorder._rows": WAITING,
    "store.sync_broker.Round.clears": WAITING,
    "store.sync_broker.Round.rows": WAITING,
    "store.sync_broker.Round.waiting": WAITING,
    "store.sync_broker.SyncBroker._pending": WAITING,
    "store.sync_broker.PendingDraft.answers": WAITING,
    "config.convert.Location.origins": STARTED,
    "testing.server.TestClient._replies": TESTING,
    "testing.server.TestClient.joined": TESTING,
    "testing.server.TestClient.messages": TESTING,
    "testing.server.TestClient.publications": TESTING,
}
"""Each cache and container by its module, class and name, and why it is bounded.

What others keep for us: `re` has 512 compiled patterns, of which MOST_PATTERN bounds those of the
API; fnmatch's own cache is not used; twisted.web keeps the names of 10,000 headers, which
MAX_NAME_BYTES bounds; Jinja keeps the templates that the package has.
"""

MAKERS = {"bytearray", "Counter", "defaultdict", "deque", "dict", "list", "OrderedDict", "set"}
CACHES = {"cache", "cached_property", "lru_cache"}
DISPLAYS = (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp)


def name_of(node: ast.AST | None) -> str:
    """The last part of the name in an expression, without its calls and subscripts."""
    while isinstance(node, ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def is_container(value: ast.AST | None) -> bool:
    """Whether the expression makes a container, or is a field whose default does."""
    if isinstance(value, DISPLAYS):
        return True
    if isinstance(value, ast.BoolOp):
        return any(map(is_container, value.values))
    if isinstance(value, ast.IfExp):
        return is_container(value.body) or is_container(value.orelse)
    if isinstance(value, ast.Lambda):
        return is_container(value.body)
    if not isinstance(value, ast.Call):
        return False
    factories = [k.value for k in value.keywords if k.arg == "default_factory"]
    named = bool(MAKERS & {name_of(value), *map(name_of, factories)})
    return named or any(map(is_container, factories))


def kept(node: ast.AST, scope: str, in_class: bool = False) -> Iterator[str]:
    """Dotted names of the caches and containers below a node."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            if CACHES & set(map(name_of, inner.decorator_list)):
                yield f"{scope}.{inner.name}"
            yield from kept(inner, scope)
        elif isinstance(inner, ast.ClassDef):
            yield from kept(inner, f"{scope}.{inner.name}", in_class=True)
        else:
            for target in _assigned(inner):
                if isinstance(target, ast.Attribute):
                    yield f"{scope}.{target.attr}"
                elif in_class and isinstance(target, ast.Name):
                    yield f"{scope}.{target.id}"
            yield from kept(inner, scope)


def _assigned(node: ast.AST) -> Iterator[ast.AST]:
    """The targets to which a statement assigns containers; a bare field is one by its type."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(target.elts, node.value.elts, strict=True)
                yield from (one for one, value in pairs if is_container(value))
            elif is_container(node.value):
                yield target
    elif isinstance(node, ast.AnnAssign):
        by_type = node.value is None and name_of(node.annotation) in MAKERS
        if by_type or is_container(node.value):
            yield node.target


def kept_by_package() -> set[str]:
    """Caches and containers of all modules but those that define messages, which do not stay."""
    names: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if module not in ("protocols.centrifuge", "resources.api_calls"):
            names |= set(kept(ast.parse(path.read_text()), module))
    return names


def test_each_cache_and_container_has_a_bound() -> None:
    names = kept_by_package()
    assert names - BOUNDS.keys() == set(), "add them to BOUNDS, with their bounds"
    assert BOUNDS.keys() - names == set(), "remove them from BOUNDS: they no longer exist"


SAMPLE = """
class A:
    seen: set[str] = set()
    def __init__(self):
        self.known = {}
        self.waits: dict[str, int] = dict()
        self.a, self.b = [], 1
        self.count = Counter()
        self.one = self.one or []
        self.two = 1 if self.a else {}
    def more(self):
        here = {}
        def f(): self.deep = deque(maxlen=1)

@dataclass
class B:
    rows: list[int] = field(default_factory=list)
    given: dict[str, int]
    made: list[str] = field(default_factory=lambda: ["a"])
    other: int

@lru_cache(8)
def f(): ...
@functools.cache
def g(): ...
"""


def test_caches_and_containers_are_found_in_all_their_forms() -> None:
    names = {name.removeprefix("m.") for name in kept(ast.parse(SAMPLE), "m")}
    of_a = {"A.seen", "A.known", "A.waits", "A.a", "A.count", "A.deep", "A.one", "A.two"}
    assert names == of_a | {"B.rows", "B.given", "B.made", "f", "g"}


MANY = 3_000


def test_few_addresses_of_refused_clients_are_kept() -> None:
    server = Server()
    for n in range(2 * MAX_ADDRESSES):
        address = f"10.{n // 60_000}.{n // 250 % 250}.{n % 250}"
        line = server.connect(address)
        line.send(request("/channels/a", origin="http://elsewhere"))
        line.vanish()
    refusals: Any = server.site.log_refusal
    assert len(refusals.__self__._rates) == MAX_ADDRESSES


def test_names_of_headers_that_twisted_keeps_are_short() -> None:
    server, cache = Server(), _nameEncoder._canonicalHeaderCache
    before = set(cache)
    for n in range(30):
        line = server.open("/channels/a", **{f"X{n}-{'a' * 10_000}": "1"})
        assert line.take().startswith(b"HTTP/1.1 400 ")
        assert line.lost
    long = f"X-{'a' * (MAX_NAME_BYTES - 2)}"
    assert server.get("/channels/a", **{long: "1"}).status == 200
    assert max(map(len, set(cache) - before)) <= MAX_NAME_BYTES


def test_caches_of_hosts_are_bounded() -> None:
    server = Server()
    for n in range(300):
        server.get("/channels/a", host=f"h{n}")
    for cached in (origin._valid_host, loopback_address):
        assert cached.cache_info().currsize <= 256


def test_idempotency_keys_are_bounded() -> None:
    keys = Keys(100)
    for n in range(MANY):
        try:
            keys.check_room(0.0)
        except Unavailable:
            break
        keys.remember(KeyEntry("a", str(n), Receipt("e", n, n), 0.0), 0.0)
    assert len(keys) == 100


def visit(server: Server, *names: str) -> None:
    """Read the channels once, and disconnect."""
    path = "/events?" + "&".join(f"channel={name}" for name in names)
    line = server.open(path, accept="text/event-stream")
    assert parse(line.take()).status == 200
    line.vanish()


def test_nothing_is_left_of_readers_of_new_channels() -> None:
    server = Server()
    server.publish("full", "x" * 100)
    for n in range(200):
        long = [f"c{n}-{m}".ljust(120, "x") for m in range(120)]
        visit(server, "full", *long)
        server.get(f"/channels/d{n}")
    hub = server.hub
    assert (hub._audiences, hub._by_channel) == ({}, {})
    assert list(hub.history.channels) == ["full"]
    assert server.is_empty()


def replayed(replays: Replays) -> int:
    """Bytes of memory of the entries, with their Python objects."""
    size = sys.getsizeof(replays._encoded)
    for key, text in replays._encoded.items():
        size += sys.getsizeof(key) + sys.getsizeof(text) + sum(map(sys.getsizeof, key[1:]))
    return size


def test_replays_take_no_more_memory_than_they_count() -> None:
    server = Server()
    server.publish("full", "x")
    for n in range(600):
        long = [f"c{n}-{m}".ljust(128, "x") for m in range(110)]
        path = "/events?last=1&" + "&".join(f"channel={name}" for name in ("full", *long))
        line = server.open(path, accept="text/event-stream")
        line.take()
        line.vanish()
    replays = server.node.replays
    assert 0 < replayed(replays) <= MOST_BYTES
    assert replays._bytes >= replayed(replays)


def test_nothing_is_left_of_sessions() -> None:
    server = Server()
    for n in range(50):
        socket = server.session()
        for m in range(20):
            command = {"channel": f"c{n}-{m}", "join_leave": True}
            socket.say({"id": m + 2, "subscribe": command})
        socket.line.vanish()
    assert server.is_empty()
    assert server.node.presence._observers == {}
    assert (server.hub._audiences, server.hub.history.channels) == ({}, {})


def test_commands_wait_for_their_turn_in_a_bounded_queue() -> None:
    client = Client(make_node())
    client.session._working = True
    client.say(b'{"id":1,"ping":{}}\n' * MANY)
    assert len(client.session._queue) <= Limits().queued_commands


def test_metrics_have_few_labels() -> None:
    server = Server()
    metrics = server.hub.metrics
    for n in range(100):
        socket = server.session()
        socket.say(f"no command {n}".encode())
        socket.line.vanish()
        server.get(f"/events?channel=a&since=e{n}:1")
        visit(server, "a")
    labels = [*metrics.ended, *metrics.refusals, *metrics.recoveries]
    assert len(labels) < 10


def buffered(line: Line) -> int:
    """Received bytes that wait to be read."""
    channel: Any = line.protocol
    return len(channel._buffer) + sum(map(len, channel._dataBuffer))


@pytest.mark.parametrize("path", ["/channels/a?wait=60", "/channels/a"])
def test_bytes_after_a_waiting_request_are_bounded(path: str) -> None:
    server = Server()
    line = server.open(path, accept="application/json")
    for _ in range(MANY):
        if line.producerState == "producing":
            line.protocol.dataReceived(request("/channels/a?wait=60"))
    assert buffered(line) < 20_000
