"""`GET /status`: findings about the server, and failures behind a channel for its publishers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.web.server import Request

from pushserver.channels.names import check_name
from pushserver.diagnosis.facts import Facts
from pushserver.diagnosis.server_findings import server_findings
from pushserver.web.gate import Gate
from pushserver.web.resource import Answer, LeafResource, Refusal, answer_json


class StatusResource(LeafResource):
    """`{"time", "sources", "handlers", "fragments"}` of one channel, with `?channel=NAME`.

    Without it, `{"facts": {...}, "findings": [...]}` of the server, for keys that may administer
    all of it, with fixes for the kind of proxy in `?proxy=NAME`, or for the one that the headers of
    the request show. `facts` returns those with the facts about the request, `sources` returns the
    status of each source, `failures` the last failures of the handlers for a channel, `fragments`
    that of its template, `clock` Unix seconds.
    """

    def __init__(
        self,
        gate: Gate,
        sources: Callable[[], list[Any]],
        failures: Callable[[str], list[Any]],
        fragments: Callable[[str], list[Any]],
        clock: Callable[[], float],
        facts: Callable[[Request], Facts],
    ):
        super().__init__()
        self._gate = gate
        self._sources = sources
        self._failures = failures
        self._fragments = fragments
        self._clock = clock
        self._facts = facts

    def answer_get(self, request: Request) -> Answer:
        key = self._gate.caller(request)
        if b"channel" not in request.args:
            if key is None or not key.allows("admin", None):
                return _denied(request, "the server is only for keys with the scope admin")
            facts = self._facts(request)
            [proxy] = request.args.get(b"proxy", [b""])[:1]
            findings = server_findings(facts, proxy.decode("utf-8", "replace"))
            return answer_json(request, {"facts": facts, "findings": findings})
        name = "" if key is None else _name(request)
        if key is None or not key.allows("publish", name):
            return _denied(request, "a channel is only for those who may publish")
        return answer_json(
            request,
            {
                "time": round(self._clock(), 3),
                "sources": [source for source in self._sources() if source.channel == name],
                "handlers": self._failures(name),
                "fragments": self._fragments(name),
            },
        )


def _denied(request: Request, rule: str) -> Answer:
    # Not a Refusal, which is logged: live pages send this request by themselves.
    request.setResponseCode(403)
    message = f"the status of {rule} (auth.api_keys or auth.keys)"
    return answer_json(request, {"error": {"code": 403, "message": message}})


def _name(request: Request) -> str:
    given = request.args.get(b"channel", [])
    if len(given) != 1:
        raise Refusal(400, f"{len(given)} channels, expected one channel=NAME")
    return check_name(given[0].decode("utf-8", "replace"))
