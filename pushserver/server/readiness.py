"""Whether the server can serve clients, for `/health/ready`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pushserver.store.service import Storage


class Readiness:
    """The checks of one server; the service sets the attributes."""

    def __init__(self, storage: Storage | None):
        self.closed_ports: Callable[[], int] = lambda: 0
        """Returns the number of ports that do not listen."""
        self.workers: Callable[[], str] = lambda: ""
        """Returns the problem of the workers, if there is one."""
        self.broker: Callable[[], str] = lambda: ""
        """Returns the problem of the broker, if there is one."""
        self.shards: Callable[[], str] = lambda: ""
        """Returns the problem of some of its shards, while the others work."""
        self.started = False
        """Whether the `start` handler of the application has returned."""
        self.stopping = False
        self._storage = storage

    def checks(self) -> Mapping[str, str]:
        """The problem of each check, without details: the log has them."""
        ports = self.closed_ports()
        application = "" if self.started else "the start handler has not returned yet"
        return {
            "application": application,
            "broker": self.broker(),
            "ports": f"{ports} of the ports do not listen" if ports else "",
            "stop": "the server is stopping" if self.stopping else "",
            "store": self._store(),
            "workers": self.workers(),
        }

    def parts(self) -> Mapping[str, str]:
        """The problems of a part of what is checked, while the server serves with the others."""
        return {"broker": self.shards()}

    def _store(self) -> str:
        if self._storage is None or not self._storage.problem:
            return ""
        self._storage.probe()
        return "the store cannot be written; the log has the error"
