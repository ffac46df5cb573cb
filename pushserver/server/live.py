"""Replaces the configuration of a running server: all of it, in one turn of the reactor, or none.

A front (`server.front`) is made of the new configuration first, which may fail. The swap has no
step that may fail; open connections stay. What remains is done in short turns: histories are cut
by the new options, and open subscriptions are checked by the new rules (`sessions.recheck`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger

from pushserver.app.app import App
from pushserver.app.service import AppService
from pushserver.config.changes import applicable, changes
from pushserver.config.limits import Limits
from pushserver.config.settings import Config, Log
from pushserver.config.tokens import make_issuer
from pushserver.errors import Invalid, PushServerError, Unavailable
from pushserver.server.front import Base, Front, make_front
from pushserver.server.ports import Ports
from pushserver.server.running_sources import RunningSources
from pushserver.server.systemd import notify, notify_until_sent, reloading
from pushserver.sessions.recheck import Recheck
from pushserver.web.site import PushSite

INTERVAL_SECONDS = 1.0
"""The least time between two reloads; requests in between are answered by one."""
SHOWN = 20
"""The most settings in one line of the log."""
STATUS_CHARACTERS = 500
"""The longest text that `systemctl status` gets."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The settings that a reload changed, and those that differ and need a restart."""

    changed: tuple[str, ...]
    restart: tuple[str, ...]

    def __str__(self) -> str:
        text = f"changed {_listed(self.changed)}" if self.changed else "nothing changed"
        if self.restart:
            text += f"; these need a restart: {_listed(self.restart)}"
        return text


class Bounded(Protocol):
    """The broker, as a reload uses it."""

    def reconfigure(self, limits: Limits, lasting: frozenset[str]) -> None:
        """Change the bounds, and the channels that outlast others."""


class Parts(Protocol):
    """The service, as a reload uses it."""

    ports: Ports
    sources: RunningSources

    def keep_updated(self, keys: Service | None) -> None:
        """Run the service with the keys of tokens in place of the present one."""

    def set_log(self, log: Log) -> None:
        """Use these levels of the log."""


class Live:
    """The configuration of a running server.

    `load` reads the configuration again, and raises PushServerError if it is not valid; None where
    the server is a part of another program.
    """

    _log = Logger()

    def __init__(
        self,
        base: Base,
        broker: Bounded,
        site: PushSite,
        app: AppService | None,
        service: Parts,
        front: Front,
        metrics_site: PushSite | None = None,
    ):
        self._metrics_site = metrics_site
        self.load: Callable[[], Config] | None = None
        self.installed: Callable[[], None] = lambda: None
        """Is called after each change of the configuration."""
        self._base = base
        self._broker = broker
        self._site = site
        self._app = app
        self._service = service
        self._waiting: list[Deferred[Outcome]] = []
        self._planned: IDelayedCall | None = None
        self._not_before = float("-inf")
        self._round = 0
        self._stopped = False
        self._install(front)

    @property
    def config(self) -> Config:
        """The present configuration."""
        return self._front.config

    @property
    def templates_beside(self) -> str:
        """The folder of the templates of channels if none is configured."""
        return self._base.templates_beside

    # --- requests ---------------------------------------

    def allow(self, load: Callable[[], Config]) -> None:
        """Let signals and the server API reload the configuration."""
        self.load = load
        self._base.node.reload = self._answer

    def request(self, reason: str) -> None:
        """Reload, and log the outcome; `reason` is the signal."""
        if self._stopped or self.load is None:
            self._log.info(
                "received {signal}, and does not read the configuration while it stops",
                signal=reason,
                event_name="reload_skipped",
            )
            return
        self.reload().addErrback(lambda failure: failure.trap(PushServerError))

    def reload(self) -> Deferred[Outcome]:
        """Reload soon; fails with Invalid if the configuration is refused, and with Unavailable.

        Requests within INTERVAL_SECONDS are answered by one reload, which starts after all of them.
        """
        waiting: Deferred[Outcome] = Deferred()
        if self._stopped:
            waiting.errback(_stopping())
            return waiting
        self._waiting.append(waiting)
        if self._planned is None:
            delay = max(0.0, self._not_before - self._base.node.monotonic())
            self._planned = self._base.reactor.callLater(delay, self._reload)
        return waiting

    def stop(self) -> None:
        """Reload no more; the requests that wait fail."""
        self._stopped = True
        self._round += 1
        if self._planned is not None:
            self._planned.cancel()
            self._planned = None
        self._end(_stopping())

    async def _answer(self) -> Mapping[str, object]:
        outcome = await self.reload()
        problems = [
            f"the template {failure.name} fails: {failure.error}"
            for failure in self._base.fragments.all_failures
        ]
        return {"changed": outcome.changed, "restart": outcome.restart, "problems": problems}

    # --- the reload ---------------------------------------

    def _reload(self) -> None:
        self._planned = None
        # Not sent again if the queue is full: after READY=1 it would mean a reload without an end.
        notify(reloading(), os.environ)
        result: Outcome | PushServerError
        try:
            result = self._replace()
        except PushServerError as error:
            result = self._refused(str(error).removeprefix("pushserver: "))
        except Exception:
            self._log.failure("the reload failed", event_name="reload_failed")
            result = self._refused("an error in the server, which the log has")
        else:
            self._log.info(
                "the configuration was read again: {outcome}",
                outcome=str(result),
                event_name="reloaded",
            )
        self._not_before = self._base.node.monotonic() + INTERVAL_SECONDS
        status = " ".join(str(result).split())[:STATUS_CHARACTERS]
        state = f"READY=1\nSTATUS=configuration: {status}"
        notify_until_sent(state, self._base.reactor, os.environ, lambda: not self._stopped)
        self._end(result)

    def _refused(self, problem: str) -> Invalid:
        self._log.error(
            "the new configuration is refused, and the old one stays: {problem}",
            problem=problem,
            event_name="reload_refused",
        )
        return Invalid(f"the new configuration is refused, and the old one stays: {problem}")

    def _replace(self) -> Outcome:
        assert self.load is not None
        config, before = self.load(), self._front
        kept = applicable(before.config, config)
        front = make_front(kept, self._base, before)
        use_certificates = self._service.ports.read_certificates()
        changed = [*changes(before.config, kept)]
        runners = [source.runner for source in front.sources]
        for source in before.sources:
            # Also if only the file of its secret has changed.
            name = f"sources.{source.runner.plan.name}"
            if source.runner not in runners and name not in changed:
                changed.append(name)
        # No step from here on may fail.
        if use_certificates():
            changed.append("the certificates")
        self._install(front, before)
        self.installed()
        self._round += 1
        work = Deferred.fromCoroutine(self._apply_in_turns(self._round))
        work.addErrback(
            lambda failure: self._log.failure(
                "the reload is incomplete", failure, event_name="reload_failed"
            )
        )
        return Outcome(tuple(changed), tuple(changes(kept, config)))

    def _install(self, front: Front, before: Front | None = None) -> None:
        """Put the front in place; no step may fail."""
        base, config = self._base, front.config
        node, limits, auth = base.node, config.limits, config.auth
        self._front = front
        node.limits = limits
        node.permissions.closed = auth.closed
        node.identification.reconfigure(
            front.keys, front.tokens(node.clock), limits.wrong_keys_per_minute
        )
        node.users.most = limits.connections_per_user
        base.peers.reconfigure(limits, front.proxies)
        base.environment.stop_seconds = limits.drain_seconds / 2
        self._broker.reconfigure(limits, lasting(config, base.app))
        if before is not None and _tables(before.config) != _tables(config):
            node.history.reconfigure(config.channel_options())
        node.presence.reconfigure(limits.announced_audience)
        # Also if no setting has changed: a template may have.
        names = config.templates if base.runs_sources else ()
        base.fragments.use(templates_folder(config, base.templates_beside), names)
        base.pages.use(config.server.templates, config.server.static, config.page)
        node.replays.clear()
        accepts_tokens = front.verifier is not None
        self._site.reconfigure(front.root, limits, front.shortcut, front.trust, accepts_tokens)
        if self._metrics_site is not None:
            self._metrics_site.reconfigure(
                front.metrics_root, limits, None, front.trust, accepts_tokens
            )
        if self._app is not None:
            self._app.reconfigure(make_issuer(auth), limits.handler_seconds)
        self._service.set_log(config.log)
        self._service.keep_updated(front.published)
        self._service.sources.replace([source.runner for source in front.sources])

    async def _apply_in_turns(self, number: int) -> None:
        """End subscriptions and cut histories, until the next reload begins anew."""
        base = self._base
        for _ in Recheck(base.node).run():
            await deferLater(base.reactor, 0)
            if self._round != number:
                return
        while base.node.expire():
            await deferLater(base.reactor, 0)
            if self._round != number:
                return

    def _end(self, result: Outcome | PushServerError) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if isinstance(result, Outcome):
                each.callback(result)
            else:
                # An error of its own for each: a raised one keeps its traceback.
                each.errback(copy(result))


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _stopping() -> Unavailable:
    return Unavailable("the server is shutting down", "stopping")


def _tables(config: Config) -> tuple[object, ...]:
    """The settings of channels."""
    return config.defaults, config.namespaces, config.channels


def templates_folder(config: Config, beside: str) -> str:
    """The folder of the templates of channels; `beside`: the one if none is configured."""
    return config.server.templates or config.server.pages or beside


def lasting(config: Config, app: App | None) -> frozenset[str]:
    """The channels that make room for others last: those of the configuration and of sources."""
    sources = [source.channel for source in config.sources.values()]
    sources += [own.plan.channel for own in (() if app is None else app.sources)]
    return frozenset([*config.channels, *sources])
