"""The logged traceback of a source or handler starts with its own code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from twisted.internet.defer import succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from pushserver import PushServer
from pushserver.sources.functions.adapt import adapt
from pushserver.sources.interface import Feed, ISource
from pushserver.testing import ServerError, TestServer
from pushserver.usercode.tracebacks import own_part
from tests.unit.fakes.source_tools import SourceBench, stopped
from tests.unit.fakes.web import Trouble


class Oops(Exception):
    """An exception of a source."""


def inner() -> Any:
    raise Oops


def function() -> Any:
    inner()


def generator() -> Iterator[int]:
    inner()
    yield 1


def generator_of_the_feed(feed: Feed) -> Iterator[int]:
    inner()
    yield 1


async def coroutine(feed: Feed) -> None:
    await succeed(None)
    await feed.sleep(0)
    inner()


async def timed() -> None:
    inner()


async def async_generator() -> AsyncIterator[int]:
    await succeed(None)
    inner()
    yield 1


def runs_dry() -> Any:
    return next(iter([]))


async def runs_dry_too() -> Any:
    return next(iter([]))


@implementer(ISource)
class Own:
    """A source of a user."""

    async def run(self, feed: Feed) -> None:
        inner()


CASES: list[tuple[Any, float | None, bool | None]] = [
    (function, 1.0, None),
    (function, 1.0, False),
    (generator, None, None),
    (generator, 1.0, None),
    (generator, None, False),
    (generator_of_the_feed, None, None),
    (coroutine, None, None),
    (timed, 1.0, None),
    (async_generator, None, None),
    (async_generator, 1.0, None),
    (Own, None, None),
]


def frames(trouble: Trouble) -> list[str]:
    """The functions in the logged traceback."""
    functions = [frame[0] for frame in trouble[0]["log_failure"].frames]
    trouble.clear()
    return functions


@pytest.mark.parametrize(("target", "every", "thread"), CASES)
def test_traceback_leaves_out_the_frames_of_callers(
    trouble: Trouble, target: Any, every: float | None, thread: bool | None
) -> None:
    bench = SourceBench()
    runner = bench.started(adapt(target, every, thread))
    bench.clock.advance(0)
    if thread is None and target is function:
        bench.clock.take()
    elif thread is None and target in (generator, generator_of_the_feed):
        # The second call closes the generator.
        bench.clock.take(2)
    assert frames(trouble) == ["run" if target is Own else target.__name__, "inner"]
    runner.stopService()


def test_traceback_keeps_the_chain_of_errors(trouble: Trouble) -> None:
    def chained() -> None:
        try:
            inner()
        except Oops as error:
            raise LookupError from error

    SourceBench().started(adapt(chained, 1.0, False))
    assert isinstance(trouble[0]["log_failure"].value.__cause__, Oops)
    assert frames(trouble) == ["chained"]


def raised_in(*modules: str) -> Failure:
    """A failure in nested calls of functions, one in each of these modules."""
    call: Any = None
    for name in reversed(modules):
        space = {"__name__": name, "call": call, "Oops": Oops}
        exec(f"def function(): {'raise Oops' if call is None else 'call()'}", space)
        call = space["function"]
    with pytest.raises(Oops) as raised:
        call()
    return Failure(raised.value, Oops, raised.tb.tb_next)


def modules(failure: Failure) -> list[str]:
    """The modules of the remaining frames."""
    part, names = own_part(failure).tb, []
    while part is not None:
        names.append(part.tb_frame.f_globals["__name__"])
        part = part.tb_next
    return names


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            ["pushserver.sources.engine.attempt", "twisted.internet.defer"],
            ["shop", "pushserver.app.app"],
        ),
        (
            ["pushserver.app.dispatch", "pushserver.usercode.thread_pool"],
            ["shop.twisted", "twisted.web"],
        ),
        (["pushserver.usercode.awaiting"], ["pushserver.sources.types.feed.source", "feedparser"]),
        (["pushserver.sources.engine.attempt"], ["twisted.plugins.dice_source"]),
        ([], ["shop"]),
        ([], ["pushservers.mine"]),
    ],
)
def test_sources_of_the_package_and_plugins_keep_their_frames(
    before: list[str], after: list[str]
) -> None:
    assert modules(raised_in(*before, *after)) == after


def test_traceback_without_own_frames_is_kept_whole() -> None:
    failure = raised_in("pushserver.sources.engine.attempt", "twisted.internet.defer")
    assert own_part(failure) is failure
    failure.cleanFailure()
    assert own_part(failure) is failure


@pytest.mark.parametrize("thread", [True, False])
@pytest.mark.parametrize("event", ["ask", "connect"])
def test_stop_iteration_of_a_handler_has_its_frame(
    trouble: Trouble, event: str, thread: bool
) -> None:
    app = PushServer()
    app.on(event, thread=thread)(runs_dry)
    with TestServer(app) as server, pytest.raises(ServerError, match="application failed"):
        server.connect().rpc(event)
    [failed] = trouble
    assert [frame[0] for frame in failed["log_failure"].frames] == ["runs_dry"]
    trouble.clear()


def test_stop_iteration_of_an_async_handler_has_its_frame(trouble: Trouble) -> None:
    app = PushServer()
    app.on("ask")(runs_dry_too)
    with TestServer(app) as server, pytest.raises(ServerError, match="application failed"):
        server.connect().rpc("ask")
    [failed] = trouble
    assert [frame[0] for frame in failed["log_failure"].frames] == ["runs_dry_too"]
    trouble.clear()


@pytest.mark.parametrize("thread", [True, False])
def test_stop_iteration_of_a_source_has_its_frame(trouble: Trouble, thread: bool) -> None:
    bench = SourceBench()
    runner = bench.started(adapt(runs_dry, 1.0, thread))
    if thread:
        bench.clock.take()
    [failed] = trouble
    assert [frame[0] for frame in failed["log_failure"].frames] == ["runs_dry"]
    trouble.clear()
    stopped(runner)
