"""`GET /health/live` and `/health/ready`, for load balancers and supervisors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.web.server import Request

from pushserver.web.resource import RETRY, Answer, ContainerResource, LeafResource, answer_json

Checks = Callable[[], Mapping[str, str]]
"""Returns the checks by name, each with its problem; empty if there is none.

Anybody may read the problems: they have no path, no address and no text of others.
"""


class HealthResource(LeafResource):
    """`{"status": "ok", "checks": {...}}`, and 503 with `"failing"` if a check has a problem.

    It is `"degraded"` with a problem of `parts`: a part of what is checked, while the others work.
    """

    def __init__(self, checks: Checks, parts: Checks = dict):
        super().__init__()
        self._checks = checks
        self._parts = parts

    def answer_get(self, request: Request) -> Answer:
        checks = self._checks()
        failing = any(checks.values())
        if failing:
            request.setResponseCode(503)
            for name, value in RETRY.items():
                request.setHeader(name, value)
        parts = self._parts()
        shown = {name: problem or parts.get(name) or "ok" for name, problem in checks.items()}
        status = "failing" if failing else "degraded" if any(parts.values()) else "ok"
        return answer_json(request, {"status": status, "checks": shown})


def health(ready: Checks, parts: Checks = dict) -> ContainerResource:
    """The folder `/health`; `live` has no checks, as only a working reactor answers."""
    return ContainerResource(
        {b"live": HealthResource(dict), b"ready": HealthResource(ready, parts)}
    )
