"""The set of keys of another service: read, kept while it is down, and rotated."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from pushserver.auth.jwks import MAX_JWKS_BYTES
from pushserver.auth.token_keys import PUBLIC
from pushserver.auth.tokens import TokenRules, Verifier
from pushserver.config.settings import Auth
from pushserver.errors import InvalidToken, SourceFailed, Unavailable, UnknownKeyId
from pushserver.server.jwks import PublishedKeys, Schedule, published_keys
from pushserver.server.tokens import VerifiedTokens
from tests.unit.fakes.remote import RemoteCase, failure_of, reactor
from tests.unit.fakes.tokens import NOW, jwk, jwks, of_user, token
from tests.unit.fakes.tools import programs
from tests.unit.fakes.web import Log, Trouble

REFRESH, RETRY, STALE = 300, 10, 1_000
SCHEDULE = Schedule(REFRESH, RETRY, STALE)


class Issuer:
    """The other service: `keys` are the numbers of its keys; None if it is down.

    `slow`: its answers wait for `answer`.
    """

    def __init__(self, *keys: int) -> None:
        self.keys: tuple[int, ...] | None = keys
        self.slow = False
        self.reads: list[float] = []
        # A Clock has all that the schedule needs of a reactor.
        self.clock = cast(Any, Clock())
        self.waiting: list[Deferred[None]] = []
        self.verifier = Verifier(TokenRules(frozenset(PUBLIC)))
        self.published = PublishedKeys(
            self.read, "auth.jwks_url", SCHEDULE, self.verifier, self.clock, self.clock.seconds
        )
        self.tokens = VerifiedTokens(self.verifier, lambda: NOW, self.published)

    async def read(self) -> bytes:
        self.reads.append(self.clock.seconds())
        if self.slow:
            waiting: Deferred[None] = Deferred()
            self.waiting.append(waiting)
            await waiting
        if self.keys is None:
            raise SourceFailed("id.example: connection refused")
        return jwks(*(jwk("EdDSA", f"k{number}", number) for number in self.keys))

    def answer(self) -> None:
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            each.callback(None)

    def start(self) -> Issuer:
        self.published.startService()
        return self

    def comes(self, number: int) -> Deferred[Any]:
        """A token of this key comes."""
        text = token(of_user(), "EdDSA", number, kid=f"k{number}")
        return Deferred.fromCoroutine(self.tokens.connection(text))

    def accepts(self, number: int) -> bool:
        """Whether a token of this key is accepted, in this turn; raises Unavailable."""
        result: list[Any] = []
        self.comes(number).addBoth(result.append)
        failure = getattr(result[0], "value", None)
        if isinstance(failure, Unavailable):
            raise failure
        assert failure is None or isinstance(failure, InvalidToken)
        return failure is None


class TestReading:
    def test_keys_are_read_at_the_start_and_regularly(self) -> None:
        issuer = Issuer(1).start()
        assert issuer.accepts(1)
        for n in range(1, 4):
            issuer.clock.advance(REFRESH)
            assert issuer.reads == [REFRESH * i for i in range(n + 1)]

    def test_a_new_key_is_read_when_its_first_token_comes(self) -> None:
        issuer = Issuer(1).start()
        issuer.clock.advance(RETRY)
        issuer.keys = (1, 2)
        assert issuer.accepts(2)
        assert issuer.reads == [0, RETRY]

    def test_unknown_keys_cause_few_reads(self) -> None:
        issuer = Issuer(1).start()
        for _ in range(10 * RETRY):
            assert not issuer.accepts(9)
            issuer.clock.advance(1)
        assert issuer.reads == [RETRY * n for n in range(10)]

    def test_a_known_key_and_a_wrong_signature_cause_no_read(self) -> None:
        issuer = Issuer(1).start()
        issuer.clock.advance(RETRY)
        wrong = token(of_user(), "EdDSA", 2, kid="k1")
        result: list[Any] = []
        Deferred.fromCoroutine(issuer.tokens.connection(wrong)).addBoth(result.append)
        assert isinstance(result[0].value, InvalidToken)
        assert issuer.reads == [0]

    def test_tokens_wait_for_the_first_answer_together(self) -> None:
        issuer = Issuer(1)
        issuer.slow = True
        issuer.start()
        results: list[Any] = []
        for number in (1, 1, 2):
            issuer.comes(number).addBoth(results.append)
        assert (results, issuer.reads) == ([], [0])
        issuer.answer()
        assert [getattr(result, "user", "refused") for result in results] == ["42", "42", "refused"]

    def test_a_lost_key_is_dropped(self) -> None:
        issuer = Issuer(1, 2).start()
        issuer.keys = (2,)
        with Log() as events:
            issuer.clock.advance(REFRESH)
        assert events.take() == [
            "auth.jwks_url: tokens are verified by 1 keys: k2 (EdDSA); no longer by k1 (EdDSA)"
        ]
        assert (issuer.accepts(1), issuer.accepts(2)) == (False, True)

    def test_other_entries_of_the_set_are_told(self, trouble: Trouble) -> None:
        issuer = Issuer(1)

        async def read() -> bytes:
            return jwks(jwk("EdDSA", "a"), {"kty": "oct"})

        PublishedKeys(
            read, "auth.jwks_url", SCHEDULE, issuer.verifier, issuer.clock, issuer.clock.seconds
        ).startService()
        [warning] = trouble.take()
        assert warning == (
            "auth.jwks_url: 1 entries are no keys for tokens here:"
            " key 2: kty is 'oct', expected RSA or EC or OKP"
        )

    def test_the_stop_ends_a_read_and_the_schedule(self) -> None:
        issuer = Issuer(1)
        issuer.slow = True
        issuer.start()
        result: list[Any] = []
        issuer.comes(1).addBoth(result.append)
        issuer.published.stopService()
        assert isinstance(result[0].value, Unavailable)
        assert issuer.clock.getDelayedCalls() == []
        other = Issuer(1).start()
        other.published.stopService()
        assert other.clock.getDelayedCalls() == []


class TestFailures:
    def test_keys_stay_valid_for_a_time(self, trouble: Trouble) -> None:
        issuer = Issuer(1).start()
        issuer.keys = None
        issuer.clock.advance(REFRESH)
        while issuer.clock.seconds() < STALE - RETRY:
            assert issuer.accepts(1)
            issuer.clock.advance(RETRY)
        issuer.clock.advance(RETRY)
        with pytest.raises(Unavailable, match=r"cannot be read now \(auth.jwks_url\)"):
            issuer.accepts(1)
        texts = trouble.take()
        assert texts[0] == (
            "auth.jwks_url: id.example: connection refused; its last keys are valid for 700 s more"
            " (auth.jwks_stale_seconds)"
        )
        # Once a minute, although it was read every ten seconds.
        assert len(texts) <= STALE / 60
        issuer.keys = (1,)
        issuer.clock.advance(RETRY)
        assert issuer.accepts(1)

    def test_a_service_that_is_down_at_the_start_refuses_nobody_for_good(
        self, trouble: Trouble
    ) -> None:
        issuer = Issuer()
        issuer.keys = None
        issuer.start()
        with pytest.raises(Unavailable):
            issuer.accepts(1)
        assert trouble.take() == [
            "auth.jwks_url: id.example: connection refused; no key is known yet"
        ]
        issuer.keys = (1,)
        with pytest.raises(Unavailable):
            issuer.accepts(1)
        issuer.clock.advance(RETRY)
        assert issuer.accepts(1)

    def test_a_broken_set_keeps_the_last_keys(self, trouble: Trouble) -> None:
        issuer = Issuer(1).start()
        issuer.keys = ()
        issuer.clock.advance(REFRESH)
        assert issuer.accepts(1)
        assert "no usable key among 0; its last keys are valid" in trouble.take()[0]

    def test_a_fault_of_ours_is_logged_and_the_schedule_continues(self, trouble: Trouble) -> None:
        issuer = Issuer(1)

        async def read() -> bytes:
            raise RuntimeError("a fault")

        keys = PublishedKeys(
            read, "auth.jwks_url", SCHEDULE, issuer.verifier, issuer.clock, issuer.clock.seconds
        )
        keys.startService()
        assert trouble.take() == ["auth.jwks_url: reading the keys failed: RuntimeError('a fault')"]
        assert len(issuer.clock.getDelayedCalls()) == 1


class TestFiles:
    def published(self, path: Path) -> tuple[Verifier, Any, PublishedKeys]:
        clock: Any = Clock()
        verifier = Verifier(TokenRules(frozenset(PUBLIC)))
        auth = Auth(jwks_file=str(path))
        keys = published_keys(auth, verifier, clock, clock.seconds)
        assert keys is not None
        keys.startService()
        return verifier, clock, keys

    def test_a_changed_file_is_read(self, tmp_path: Path, trouble: Trouble) -> None:
        path = tmp_path / "keys.json"
        path.write_bytes(jwks(jwk("ES256", "a", 1)))
        verifier, clock, _ = self.published(path)
        first, second = (token(of_user(), "ES256", n, kid=k) for n, k in ((1, "a"), (2, "b")))
        assert verifier.connection(first, NOW).user == "42"
        path.write_bytes(jwks(jwk("ES256", "b", 2)))
        clock.advance(5)
        assert verifier.connection(second, NOW).user == "42"
        with pytest.raises(UnknownKeyId):
            verifier.connection(first, NOW)
        path.write_bytes(b"half")
        clock.advance(5)
        assert verifier.connection(second, NOW).user == "42"
        path.unlink()
        clock.advance(60)
        assert verifier.connection(second, NOW).user == "42"
        texts = trouble.take()
        assert "not JSON" in texts[0]
        assert "No such file or directory" in texts[1]

    def test_no_set_is_read_without_the_settings(self) -> None:
        clock: Any = Clock()
        verifier = Verifier(TokenRules(frozenset(PUBLIC)))
        assert published_keys(Auth(), verifier, clock, clock.seconds) is None


class TestPages(RemoteCase):
    """Sets at a URL, from a server that the test plays."""

    @pytest.fixture(autouse=True)
    def keep_trouble(self, trouble: Trouble) -> None:
        self.trouble = trouble

    def read(self, url: str, seconds: float = 30.0) -> tuple[Deferred[None], Verifier]:
        verifier = Verifier(TokenRules(frozenset(PUBLIC)))
        auth = Auth(jwks_url=url, jwks_timeout_seconds=seconds)
        keys = published_keys(auth, verifier, reactor, reactor.seconds)
        assert keys is not None
        keys.startService()
        self.addCleanup(keys.stopService)
        return Deferred.fromCoroutine(keys.refresh()), verifier

    async def test_a_set_is_fetched(self) -> None:
        remote = self.remote()
        reading, verifier = self.read(remote.url + "jwks.json")
        visit = await remote.visit()
        assert visit.path == "/jwks.json"
        assert visit.headers["accept"] == "application/json"
        visit.answer(jwks(jwk("RS256", "a")))
        await reading
        text = token(of_user(), "RS256", kid="a")
        assert verifier.connection(text, NOW).user == "42"

    async def refused(self, answer: Any, problem: str, seconds: float = 30.0) -> None:
        remote = self.remote()
        reading, _ = self.read(remote.url, seconds)
        answer(await remote.visit())
        assert isinstance(await failure_of(reading), Unavailable)
        [warning] = self.trouble.take()
        assert problem in warning

    async def test_an_error_is_no_set(self) -> None:
        await self.refused(lambda visit: visit.answer(b"", 500), "answered 500")

    async def test_a_redirect_is_not_followed(self) -> None:
        await self.refused(
            lambda visit: visit.answer(b"", 302, location="http://127.0.0.1:1/"), "answered 302"
        )

    async def test_a_huge_set_is_refused_by_its_length_or_when_it_comes(self) -> None:
        length = {"content_length": str(MAX_JWKS_BYTES + 1)}
        await self.refused(
            lambda visit: visit.begin(200, **length), f"more than {MAX_JWKS_BYTES} bytes"
        )

        def endless(visit: Any) -> None:
            visit.begin(200, transfer_encoding="chunked")
            visit.chunk(b" " * (MAX_JWKS_BYTES + 1))

        await self.refused(endless, f"more than {MAX_JWKS_BYTES} bytes")

    async def test_a_slow_set_is_given_up(self) -> None:
        def slow(visit: Any) -> None:
            visit.begin(200, content_length="100")
            visit.write(b"{")

        problem = "no answer within 0.05 s (auth.jwks_timeout_seconds)"
        await self.refused(slow, problem, 0.05)


keys_of_the_issuer = st.none() | st.lists(st.integers(1, 3), max_size=3, unique=True).map(tuple)
steps = st.one_of(
    st.tuples(st.just("keys"), keys_of_the_issuer),
    st.tuples(st.just("time"), st.sampled_from([1, RETRY, REFRESH, STALE])),
    st.tuples(st.just("token"), st.integers(1, 3)),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=programs(steps))
def test_a_token_is_accepted_by_the_keys_of_the_last_good_answer(
    trouble: Trouble, program: list[Any]
) -> None:
    issuer = Issuer(1)
    good: tuple[int, ...] | None = None
    good_at = 0.0
    original = issuer.read

    async def read() -> bytes:
        nonlocal good, good_at
        text = await original()
        if issuer.keys:
            good, good_at = issuer.keys, issuer.clock.seconds()
        return text

    issuer.published._read = read
    issuer.start()
    for step, value in program:
        if step == "keys":
            issuer.keys = value
        elif step == "time":
            for _ in range(value // RETRY + 1):
                issuer.clock.advance(min(value, RETRY))
        else:
            try:
                accepted = issuer.accepts(value)
            except Unavailable:
                # Never while the key was in the last good answer, and that is recent.
                fresh = issuer.clock.seconds() - good_at < STALE - RETRY
                assert not (good and value in good and fresh)
                assert not issuer.keys or issuer.clock.seconds() - issuer.reads[-1] < RETRY
            else:
                assert accepted == (good is not None and value in good)
                assert not accepted or issuer.clock.seconds() - good_at < STALE + RETRY
    gaps = [later - earlier for earlier, later in zip(issuer.reads, issuer.reads[1:], strict=False)]
    assert all(gap >= RETRY for gap in gaps)
    trouble.clear()


class TestAReload:
    """A service for the same set takes the place of an earlier one."""

    def later(self, before: Issuer, algorithms: frozenset[str] = frozenset(PUBLIC)) -> Issuer:
        """The issuer after the reload, with the clock of the one before; its set is down."""
        issuer = Issuer()
        issuer.keys, issuer.clock = None, before.clock
        issuer.verifier = Verifier(TokenRules(algorithms))
        issuer.published = PublishedKeys(
            issuer.read,
            "auth.jwks_url",
            SCHEDULE,
            issuer.verifier,
            issuer.clock,
            before.clock.seconds,
        )
        issuer.published.take_over(before.published)
        issuer.tokens = VerifiedTokens(issuer.verifier, lambda: NOW, issuer.published)
        return issuer

    def test_the_keys_stay_valid_until_the_set_is_read_again(self, trouble: Trouble) -> None:
        before = Issuer(1).start()
        issuer = self.later(before).start()
        assert issuer.accepts(1)
        trouble.take()

    def test_the_keys_are_not_valid_for_longer_than_before(self, trouble: Trouble) -> None:
        before = Issuer(1).start()
        before.clock.advance(STALE - REFRESH)
        before.keys = None
        before.published.stopService()
        issuer = self.later(before).start()
        assert issuer.accepts(1)
        issuer.clock.pump([RETRY] * (STALE // RETRY + 1))
        with pytest.raises(Unavailable):
            issuer.accepts(1)
        trouble.take()

    def test_keys_of_algorithms_that_are_no_longer_allowed_are_dropped(self) -> None:
        issuer = self.later(Issuer(1).start(), frozenset({"RS256"}))
        assert issuer.verifier.published == ()
