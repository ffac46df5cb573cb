"""Findings from the measurements of a client."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pushserver.auth.origin import host_name, host_port
from pushserver.diagnosis.finding import Finding
from pushserver.diagnosis.proxies import Fault, proxy_named, recognised
from pushserver.diagnosis.remedies import remedy

LATE_SECONDS = 1.0
"""The delay of an event, beyond the time of another request, from which a finding warns."""
CLOCK_SECONDS = 2.0
"""The difference between two clocks from which a finding warns; `Date` has whole seconds."""

WEBSOCKET = "WebSocket"
LONG_POLL = "long-poll"

_GATEWAY = (502, 503, 504)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; `status` is 0 if there was none, and `problem` says why.

    `seconds`: until the head. `events`: until each event, of which a stream has a second one, the
    reply to a command that is sent after the first. `late`: whether the time limit of the next
    event was over. `problem` is also the message of an answer that refuses. `headers`: some of
    them, with names in lower case. `lower`: whether all names were in lower case.
    """

    status: int = 0
    problem: str = ""
    seconds: float = 0.0
    events: Sequence[float] = ()
    late: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    lower: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements at one URL; `wait` is the time limit of an event, in seconds.

    `live`: the answer of `/health/live`. `status`: that of `/status`, and `origin` the server's own
    origin in it, empty if unknown. `ahead`: the seconds by which the clock of the server is ahead
    of that of the client, None if unknown. `proxy`: the kind of proxy in front, empty if unknown.
    `transports`: the answers by transport; only a URL with a good `live` has some. `has_key`:
    whether `/status` was asked with an API key.
    """

    url: str
    wait: float
    live: Answer
    status: Answer = Answer()
    origin: str = ""
    ahead: float | None = None
    proxy: str = ""
    transports: Mapping[str, Answer] = field(default_factory=dict)
    has_key: bool = False


def client_findings(measured: Measured) -> list[Finding]:
    """All findings, in the order of the measurements."""
    reached = _reached(measured)
    if reached.level == "error":
        return [reached]
    findings = [reached, *_front(measured), *_clock(measured), *_origin(measured)]
    for name, answer in measured.transports.items():
        findings.append(_transport(name, answer, measured))
    return [*findings, *_status(measured)]


def _reached(measured: Measured) -> Finding:
    live, url = measured.live, measured.url
    name, quoted = "reachability", shlex.quote(url)
    if live.status == 200 and not live.problem:
        return Finding("ok", name, f"{url} answers after {_shown(live.seconds)}")
    if live.status == 0:
        parts = urlsplit(url)
        command = (
            "ss -ltnp  # on the machine of the server: does it listen there? If not, start it:"
            " pushserver serve, or systemctl start pushserver"
        )
        if "WRONG_VERSION_NUMBER" in live.problem or "RECORD_LAYER" in live.problem:
            # Whatever answers there does not speak TLS.
            command = f"pushserver doctor {shlex.quote('http' + url.removeprefix('https'))}"
        elif "certificate" in live.problem.lower():
            place = f"{parts.hostname}:{parts.port or 443}"
            command = (
                f"openssl s_client -connect {place} -servername {parts.hostname} </dev/null"
                " | openssl x509 -noout -subject -dates"
            )
        return Finding("error", name, f"{url}: {live.problem}", command)
    if "location" in live.headers:
        target = live.headers["location"].removesuffix("health/live")
        text = f"{url} answers {live.status}, a redirect to {live.headers['location']}"
        return Finding("error", name, text, f"pushserver doctor {shlex.quote(target)}")
    if live.status in _GATEWAY:
        text = f"{url} answers {live.status}: a proxy is there, and does not reach the server"
        command = "curl -i http://127.0.0.1:8080/health/live  # where the proxy runs"
        return Finding("error", name, text, command)
    text = f"{url} answers {live.status}, and is not this server or not its root"
    command, parts = f"curl -i {quoted}", urlsplit(url)
    if parts.path.strip("/"):
        root = shlex.quote(f"{parts.scheme}://{parts.netloc}/")
        command = f"pushserver doctor {root}  # or the path at which a proxy has the server"
    return Finding("error", name, text, command)


def front(answer: Answer, request: Collection[str] = ()) -> str:
    """The name of the kind of proxy in front, empty if unknown.

    `request`: the names of the headers that arrived at the server.
    """
    headers = answer.headers
    return recognised(headers.get("server", ""), headers.get("via", ""), answer.lower, request)


def _front(measured: Measured) -> Iterator[Finding]:
    headers = measured.live.headers
    names = [headers.get("server", ""), headers.get("via", "")]
    others = [name for name in names if name and name != "pushserver"]
    text = "no proxy that names itself"
    if others:
        text = f"a proxy: {', '.join(others)}"
    elif measured.proxy:
        text = f"a proxy, as its headers show: {measured.proxy}"
    yield Finding("ok", "in front", text)


def _clock(measured: Measured) -> Iterator[Finding]:
    if measured.ahead is None:
        return
    ahead = measured.ahead
    if abs(ahead) < CLOCK_SECONDS:
        yield Finding("ok", "clock", f"differs by less than {CLOCK_SECONDS:g} s")
        return
    text = f"the server's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} ours"
    command = "timedatectl set-ntp true  # where timedatectl shows the wrong time"
    yield Finding("warning", "clock", text, command)


def _origin(measured: Measured) -> Iterator[Finding]:
    if not measured.origin:
        return
    ours, theirs = urlsplit(measured.url), urlsplit(measured.origin)
    secure = ours.scheme == "https"
    hosts = {(host_name(url.netloc), host_port(url.netloc, secure)) for url in (ours, theirs)}
    headers: list[Fault] = ["Host"] if len(hosts) > 1 else []
    if ours.scheme != theirs.scheme:
        headers.append("X-Forwarded-Proto")
    if headers:
        text = (
            f"the server believes that its own URL is {measured.origin}, and refuses the pages of"
            f" {ours.scheme}://{ours.netloc}; the proxy does not send {' and '.join(headers)}"
        )
        yield Finding("error", "origin", text, proxy_named(measured.proxy).fix(*headers))
    else:
        yield Finding("ok", "origin", f"the server knows its URL as {measured.origin}")


def _transport(name: str, answer: Answer, measured: Measured) -> Finding:
    proxy = proxy_named(measured.proxy)
    good = 101 if name == WEBSOCKET else 200
    if answer.status == good and answer.events:
        return _event(name, answer, measured)
    if answer.status in (0, good) and answer.late:
        if name == WEBSOCKET:
            text = f"no answer within {measured.wait:g} s"
            return Finding("error", name, text, proxy.fix("Upgrade"))
        if name == LONG_POLL:
            text = f"no answer {measured.wait:g} s after its time was over"
            return Finding("error", name, text, proxy.fix("streams"))
        text = f"no event arrives within {measured.wait:g} s: a proxy buffers the stream"
        return Finding("error", name, text, proxy.fix("streams"))
    if answer.status == good:
        text = f"closed before the first event: {answer.problem or 'no reason'}"
        return Finding(
            "error", name, text, proxy.fix("Upgrade" if name == WEBSOCKET else "streams")
        )
    return _refused(name, answer, measured)


def _event(name: str, answer: Answer, measured: Measured) -> Finding:
    proxy, first = proxy_named(measured.proxy), answer.events[0]
    if name == LONG_POLL:
        return Finding("ok", name, f"works; answered after {_shown(first)}")
    if answer.problem:
        text = f"the event after the first one does not arrive within {measured.wait:g} s"
        if answer.late:
            return Finding(
                "error", name, f"{text}: a proxy buffers the stream", proxy.fix("streams")
            )
        text = f"closed after the first event: {answer.problem}"
        return Finding("error", name, text, proxy.fix("time"))
    delay = max(
        [first - measured.live.seconds, *(answer.events[-1] - each for each in answer.events)]
    )
    if delay > LATE_SECONDS:
        text = f"an event is {_shown(delay)} late: a proxy collects bytes for that long"
        return Finding("warning", name, text, proxy.fix("streams"))
    text = f"works; the first event arrives after {_shown(first)}"
    if len(answer.events) > 1:
        text += f", the next one {_shown(answer.events[1] - first)} after its cause"
    return Finding("ok", name, text)


def _refused(name: str, answer: Answer, measured: Measured) -> Finding:
    proxy = proxy_named(measured.proxy)
    text = f"{answer.status}: {answer.problem or 'no reason'}" if answer.status else answer.problem
    if answer.status in (502, 504):
        # Apache answers 502 after its time.
        return Finding(
            "error", name, f"{text}; the proxy does not wait long enough", proxy.fix("time")
        )
    if answer.status in (401, 403) and name == LONG_POLL and "may not use" not in answer.problem:
        # The channel is not for everybody, which is no fault of a proxy.
        command = f"pushserver doctor {shlex.quote(measured.url)} --api-key-file FILE"
        return Finding("note", name, f"not measured, {text}", command)
    if name == WEBSOCKET and (answer.status in (0, 200, 404, 426) or not answer.problem):
        return Finding("error", name, text, proxy.fix("Upgrade"))
    return Finding("error", name, text, remedy(answer.status, answer.problem, {}, proxy=proxy))


def _status(measured: Measured) -> Iterator[Finding]:
    status = measured.status
    if status.status == 200:
        return
    if status.status == 401 and measured.has_key:
        fix = (
            "pushserver key new --name doctor --may admin  # if the key is lost; also look into"
            " --key, --api-key-file and PUSHSERVER_KEY, and reload the server after a change of its"
            " keys"
        )
        if "has no API keys" in status.problem:
            fix = (
                f"pushserver doctor {shlex.quote(measured.url)}  # without --key, --api-key-file"
                " and PUSHSERVER_KEY, on the server's machine"
            )
        reason = status.problem or "no reason"
        text = f"the server refuses this API key ({status.status}: {reason})"
        yield Finding("error", "key", text, fix)
        return
    needs = "with a key that has the scope admin"
    if measured.has_key and status.status == 403:
        needs += ", which this one has not"
    yield Finding(
        "note",
        "server",
        f"headers, refusals, sources, store and open files are only shown {needs}"
        f" ({status.status}: {status.problem or 'no reason'})",
        "pushserver key new --name doctor --may admin  # add it to the configuration, then\n"
        f"pushserver doctor {shlex.quote(measured.url)} --api-key-file FILE",
    )


def _shown(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1_000:.0f} ms"
