"""Findings from the facts about a running server."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from os.path import dirname
from typing import cast

from pushserver.auth.origin import loopback_address
from pushserver.diagnosis.facts import BrokerFacts, Facts, RequestFacts, StoreFacts
from pushserver.diagnosis.finding import Finding
from pushserver.diagnosis.proxies import Proxy, proxy_named, recognised
from pushserver.diagnosis.remedies import LOG, configured, remedy

NEARLY = 0.8
"""The part of a limit at which a finding warns."""
SPARE_FILES = 200
"""Open files besides those of connections: the store, its log, listening sockets, and the
connections over the limit that programs on the machine may open."""
MOST_TEMPLATES = 5
"""The failed templates that have a finding."""
LOW_BYTES = 268_435_456
"""Free space of the disk of the store below which a finding warns, or the size of its file."""


def server_findings(facts: Facts, proxy: str = "") -> list[Finding]:
    """All findings; those of one subject follow each other.

    `proxy`: the name of the kind of proxy in front, as `recognised` returns it.
    """
    front = proxy_named(proxy or recognised(request=facts.request.headers))
    return [
        *_versions(facts),
        *_checks(facts),
        *_connections(facts),
        *_files(facts),
        *(_store(facts.store) if facts.broker is None else _broker(facts.broker)),
        *_sources(facts),
        *_templates(facts),
        *_request(facts.request, facts.has_keys, front),
        *_refusals(facts, front),
    ]


def _versions(facts: Facts) -> Iterator[Finding]:
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    yield Finding("ok", "versions", f"{versions}; up for {facts.uptime:.0f} s")


def _checks(facts: Facts) -> Iterator[Finding]:
    for name, problem in facts.checks.items():
        # These have findings with more details.
        if problem and name not in ("broker", "store"):
            yield Finding("error", "health", f"{name}: {problem}", LOG)


def _connections(facts: Facts) -> Iterator[Finding]:
    most = int(cast(int, facts.limits["connections"]))
    text = f"{facts.connections} of {most} connections"
    if facts.connections >= NEARLY * most:
        yield Finding(
            "warning",
            "connections",
            f"{text} are open (limits.connections)",
            configured("limits.connections", 2 * most),
        )
    else:
        yield Finding("ok", "connections", text)


def _files(facts: Facts) -> Iterator[Finding]:
    """The open files; each connection is one, of a worker if there are workers."""
    most = int(cast(int, facts.limits["connections"]))
    files, bound, workers = facts.descriptors, facts.max_descriptors, len(facts.workers)
    if files is None or bound is None:
        return
    text, process = f"{files} of {bound} files are open", "the process"
    if workers:
        # The main process has none of the connections. Its workers have its bound.
        busiest = max(worker.connections for worker in facts.workers)
        if busiest > files:
            text, files = f"a worker has {busiest} connections and may open {bound} files", busiest
        else:
            text += " in the main process"
        most, process = -(-most // workers), f"each of {workers} workers"
    needed = most + SPARE_FILES
    raised = f"# systemctl edit pushserver\n[Service]\nLimitNOFILE={max(needed, 2 * bound)}"
    if files >= NEARLY * bound:
        yield Finding("error", "open files", text, raised)
    elif bound < needed:
        yield Finding(
            "note",
            "open files",
            f"{text}, but limits.connections is {facts.limits['connections']}, for which {process}"
            f" needs {needed} files",
            f"# systemctl edit pushserver\n[Service]\nLimitNOFILE={needed}",
        )
    else:
        yield Finding("ok", "open files", text)


def _store(store: StoreFacts | None) -> Iterator[Finding]:
    if store is None:
        yield Finding(
            "note",
            "store",
            "histories end with the process (store.path is empty)",
            configured("store.path", "/var/lib/pushserver/history.db"),
        )
        return
    folder = shlex.quote(dirname(store.path) or ".")
    free = store.free_bytes
    if store.problem:
        fix = f"df -h {folder}; ls -ld {folder} {shlex.quote(store.path)}"
        text = f"cannot be written, {store.waiting} publications wait: {store.problem}"
        yield Finding("error", "store", text, fix)
    elif free is not None and free < max(LOW_BYTES, store.bytes):
        text = f"{store.path} has {_size(store.bytes)}, and its disk only {_size(free)} free"
        command = f"pushserver store compact --store {shlex.quote(store.path)}"
        fix = f"{command}  # while the server is stopped"
        yield Finding("warning", "store", text, fix)
    else:
        space = "" if free is None else f", its disk {_size(free)} free"
        yield Finding("ok", "store", f"{store.path} has {_size(store.bytes)}{space}")


def _broker(broker: BrokerFacts) -> Iterator[Finding]:
    name = f"{broker.name} at Redis {broker.address}"
    fix = f"{LOG}  # and the log of Redis"
    if broker.away_seconds is not None:
        text = f"{name} is not attached since {broker.away_seconds:.0f} s: {broker.problem}"
        yield Finding("error", "broker", text, fix)
    elif broker.problem:
        yield Finding("error", "broker", f"{name}: {broker.problem}", fix)
    else:
        losses = f", and was not {broker.losses} times" if broker.losses else ""
        text = f"{name} is attached{losses}; {broker.lag} publications have not arrived"
        yield Finding("ok", "broker", text)


def _sources(facts: Facts) -> Iterator[Finding]:
    broken = False
    for source in facts.sources:
        error = source.last_error or source.last_failure
        if error:
            broken = True
            when = "fails" if source.last_error else "works again after"
            text = f"{source.name} of channel {source.channel} {when}: {error}"
            fix = f"journalctl -u pushserver | grep -A 20 {shlex.quote('source ' + source.name)}"
            yield Finding("error" if source.last_error else "note", "sources", text, fix)
    if facts.sources and not broken:
        yield Finding("ok", "sources", f"all of {len(facts.sources)} work")


def _templates(facts: Facts) -> Iterator[Finding]:
    for failure in facts.templates[:MOST_TEMPLATES]:
        when = datetime.fromtimestamp(failure.time, UTC).strftime("%H:%M:%S UTC")
        where = f" for {failure.channel}" if failure.channel else ""
        fix = f"journalctl -u pushserver | grep {shlex.quote(failure.name)}"
        text = f"{failure.name} failed at {when}{where}: {failure.error}"
        yield Finding("warning", "templates", text, fix)


def _request(request: RequestFacts, has_keys: bool, proxy: Proxy) -> Iterator[Finding]:
    headers = ", ".join(f"{name}: {value}" for name, value in request.headers.items())
    peer = request.peer or "a Unix socket"
    text = f"{request.version} from {peer}, with {headers or 'no header about the sender'}"
    yield Finding("ok", "headers", f"{text}; the server's own URL is {request.origin}")
    if not request.forwarded_by:
        return
    if request.version == "HTTP/1.0":
        text = "the proxy speaks HTTP/1.0, which has no WebSockets"
        yield Finding("warning", "headers", text, proxy.fix("Upgrade"))
    names = {name.lower() for name in request.headers}
    if not names & {"x-forwarded-for", "forwarded"}:
        text = f"the proxy does not send X-Forwarded-For: the address of all its clients is {peer}"
        yield Finding("warning", "headers", text, proxy.fix("X-Forwarded-For"))
    elif not request.trusted:
        yield Finding(
            "warning",
            "headers",
            f"the proxy {peer} is not trusted: limits and the log take its address for that of all"
            " its clients (server.trusted_proxies)",
            configured("server.trusted_proxies", [request.peer or "unix"]),
        )
    if not names & {"x-forwarded-proto", "forwarded"}:
        text = "the proxy does not send X-Forwarded-Proto, which pages over https need"
        yield Finding("warning", "headers", text, proxy.fix("X-Forwarded-Proto"))
    near = request.peer is None or loopback_address(request.peer)
    if near and not has_keys:
        yield Finding(
            "warning",
            "keys",
            "a proxy on this machine forwards requests, and no key is configured"
            " (auth.api_keys or auth.keys)",
            "pushserver key new --name NAME --may publish",
        )


def _refusals(facts: Facts, proxy: Proxy) -> Iterator[Finding]:
    if not facts.refusals:
        yield Finding("ok", "refusals", "none since the start")
    for refusal in facts.refusals:
        last = datetime.fromtimestamp(refusal.time, UTC).isoformat(" ", "seconds")
        times = f"{refusal.count} times, last" if refusal.count > 1 else "once,"
        event = f"{refusal.status} to" if refusal.status else "closed a connection of"
        yield Finding(
            "warning",
            "refusals",
            f"{event} {refusal.address}: {refusal.reason} ({times} {last})",
            remedy(refusal.status, refusal.reason, facts.limits, refusal.address, proxy),
        )


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
