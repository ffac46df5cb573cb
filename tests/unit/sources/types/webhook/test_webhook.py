from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred

from pushserver.channels.idempotency import KeyEntry, Keys
from pushserver.channels.publication import Receipt
from pushserver.config.loader import load
from pushserver.errors import InvalidConfig, InvalidData, Unavailable
from pushserver.sources.interface import IHook, ISource, SourceFailed
from pushserver.sources.registry import SourceTypes
from pushserver.sources.types.webhook.signatures import (
    NotSigned,
    Signed,
    Slack,
    Stamped,
    StandardWebhooks,
    Token,
    standard_key,
)
from pushserver.sources.types.webhook.source import (
    MAX_TOLERANCE_SECONDS,
    WEBHOOK,
    Options,
    WebhookSource,
)
from tests.unit.fakes.remote import FakeFeed
from tests.unit.fakes.tools import EPOCH, drive

NOW = 1_795_000_000
SECRET = "It's a Secret to Everybody"
HUB = "X-Hub-Signature-256"
FORM = "application/x-www-form-urlencoded"


def hex_mac(secret: bytes, text: bytes) -> str:
    return hmac.new(secret, text, hashlib.sha256).hexdigest()


def hub(body: bytes, secret: str = SECRET, **more: str) -> dict[str, str]:
    """The headers of a signed request of JSON."""
    signature = f"sha256={hex_mac(secret.encode(), body)}"
    return {"x-hub-signature-256": signature, "content-type": "application/json", **more}


class Hook:
    """A webhook that runs."""

    def __init__(self, feed: FakeFeed | None = None, **options: Any):
        self.feed = feed or FakeFeed()
        self.source: WebhookSource = WEBHOOK.make(
            Options(**{"signature": "hub-sha256", "secret": SECRET, **options})
        )
        self.running = Deferred.fromCoroutine(self.source.run(self.feed))

    def post(self, body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
        return drive(self.source.receive(headers, body))

    def refused(self, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
        """The status and the reason of a request that is refused, and not published."""
        status, answer = self.post(body, headers)
        assert answer["error"]["code"] == status
        assert self.feed.published == []
        message: str = answer["error"]["message"]
        assert SECRET not in message
        return status, message


def unsigned(**options: Any) -> Hook:
    return Hook(signature="none", secret="", **options)


class TestRequest:
    def test_signed_request_is_published(self) -> None:
        hook = Hook()
        body = b'{"action": "opened", "number": 5}'
        assert hook.post(body, hub(body)) == (
            201,
            {"offset": 1, "epoch": EPOCH, "id": f"{EPOCH}:1"},
        )
        assert hook.feed.published == [({"action": "opened", "number": 5}, "message")]
        assert hook.feed.keys == [""]

    def test_unsigned_request_is_refused_with_the_reason(self) -> None:
        hook = Hook()
        body = b"{}"
        no_match = (401, f"the signature in {HUB} does not fit the body and the secret")
        assert hook.refused(body, {}) == (401, f"there is no {HUB} header")
        assert hook.refused(body, {**hub(body), "x-hub-signature-256": "sha1=abc"}) == (
            401,
            f"{HUB} does not begin with 'sha256='",
        )
        assert hook.refused(b"{ }", hub(body)) == no_match
        assert hook.refused(body, hub(body, "another")) == no_match
        assert hook.feed.troubles[-1] == f"a request was refused: {no_match[1]}"

    def test_headers_name_the_event_and_the_delivery(self) -> None:
        hook = Hook(event_header="X-GitHub-Event", id_header="X-GitHub-Delivery")
        named = {"x-github-event": "push", "x-github-delivery": "72d3162e-cc78"}
        hook.post(b"1", hub(b"1", **named))
        hook.post(b"2", hub(b"2"))
        assert hook.feed.published == [(1, "push"), (2, "message")]
        assert hook.feed.keys == ["72d3162e-cc78", ""]

    def test_invalid_event_or_delivery_is_refused(self) -> None:
        hook = Hook(event_header="X-Event", id_header="X-Id")
        status, message = hook.refused(b"1", hub(b"1", **{"x-event": "a\tb"}))
        assert (status, "invalid event name" in message) == (400, True)
        status, message = hook.refused(b"1", hub(b"1", **{"x-id": "ä"}))
        assert (status, "invalid idempotency key" in message) == (400, True)
        assert hook.refused(b"1", hub(b"1", **{"x-id": "a" * 129}))[0] == 400

    def test_request_above_the_rate_gets_429(self) -> None:
        hook = Hook()
        hook.feed.busy = 0.5
        status, message = hook.refused(b"1", hub(b"1"))
        assert (status, "max_rate" in message) == (429, True)
        # Also an invalid body, because it is not parsed.
        assert hook.refused(b"[", hub(b"["))[0] == 429
        hook.feed.busy = 0.0
        assert hook.post(b"1", hub(b"1"))[0] == 201

    def test_unsigned_request_gets_401_also_above_the_rate(self) -> None:
        hook = Hook()
        hook.feed.busy = 0.5
        assert hook.refused(b"1", {})[0] == 401

    @pytest.mark.parametrize(
        ("refusal", "status"),
        [
            (Unavailable("the disk is full"), 503),
            (SourceFailed("it was stopped"), 503),
            (InvalidData("nested deeper than 100"), 400),
        ],
    )
    def test_failed_publication_is_answered_with_its_reason(
        self, refusal: Exception, status: int
    ) -> None:
        hook = Hook()
        hook.feed.refusal = refusal
        assert hook.refused(b"1", hub(b"1")) == (status, str(refusal))

    def test_request_gets_503_while_the_source_is_not_running(self) -> None:
        hook = Hook()
        hook.running.cancel()
        hook.running.addErrback(lambda failure: failure.trap(CancelledError))
        assert hook.refused(b"1", hub(b"1")) == (
            503,
            "the source of this webhook is not running",
        )
        hook.running = Deferred.fromCoroutine(hook.source.run(hook.feed))
        assert hook.post(b"1", hub(b"1"))[0] == 201


class TestBody:
    def published(self, body: bytes, content_type: str | None) -> object:
        hook = unsigned()
        headers = {} if content_type is None else {"content-type": content_type}
        status, answer = hook.post(body, headers)
        assert status == 201, answer
        return hook.feed.data[0]

    def refused(self, body: bytes, content_type: str | None) -> tuple[int, str]:
        headers = {} if content_type is None else {"content-type": content_type}
        return unsigned().refused(body, headers)

    @pytest.mark.parametrize(
        ("body", "content_type", "value"),
        [
            (b'{"a": [1, null]}', "application/json", {"a": [1, None]}),
            (b'"x"', "application/json; charset=utf-8", "x"),
            (b"5", "application/vnd.example.v2+json", 5),
            (b"5", "Application/JSON", 5),
            (b"5", "text/plain", 5),
            (b'{"a": 1}', FORM, {"a": 1}),
            (b'{"payload=": 1}', f"{FORM}; charset=utf-8", {"payload=": 1}),
            (b"a=b", FORM, "a=b"),
            (b"hello", FORM, "hello"),
            (b"<a/>", "application/xml", "<a/>"),
            (b"5", "image/png", 5),
            (b"{", "x", "{"),
            (b"{", "text/plain", "{"),
            (b"NaN", "text/plain", "NaN"),
            ("ä\n".encode(), "text/plain; charset=utf-8", "ä\n"),
            (b"<p>", "text/html", "<p>"),
            (b"5", None, 5),
            (b"hello", None, "hello"),
            (b"5", "", 5),
            (b'\xef\xbb\xbf{"a": 1}', "application/json", {"a": 1}),
            (b"\xef\xbb\xbfhello", "text/plain", "hello"),
            (b"payload=%EF%BB%BF%5B1%5D", FORM, [1]),
        ],
    )
    def test_body_is_json_if_valid_and_else_text(
        self, body: bytes, content_type: str | None, value: object
    ) -> None:
        assert self.published(body, content_type) == value

    @pytest.mark.parametrize("content_type", ["application/json", "text/plain", FORM])
    def test_half_a_surrogate_pair_is_refused_with_the_reason(self, content_type: str) -> None:
        status, message = self.refused(b'{"a": "\\ud83d"}', content_type)
        assert (status, "a lone surrogate" in message) == (400, True)

    def test_form_may_contain_json(self) -> None:
        body = urlencode({"payload": json.dumps({"ä": "a b&c"}), "other": "x"}).encode()
        assert self.published(body, FORM) == {"ä": "a b&c"}

    @pytest.mark.parametrize(
        "body",
        [
            b"payload=1&payload=2",
            b"payload=",
            b"payload={",
            b"payload=%ff",
            b"\xff=1",
            b"&".join([b"a=1"] * 101) + b"&payload=1",
        ],
    )
    def test_form_without_one_valid_json_payload_is_refused(self, body: bytes) -> None:
        assert self.refused(body, FORM)[0] == 400

    @pytest.mark.parametrize(
        ("body", "content_type"),
        [
            (b"", "application/json"),
            (b"", None),
            (b"{", "application/json"),
            (b"NaN", "application/json"),
            (b"[" * 100_000, "application/json"),
            (b'"\xff"', "application/json"),
            (b"\xff", "text/plain"),
            (b"\xff", "image/png"),
            (b"\xff", None),
        ],
    )
    def test_body_that_does_not_match_its_content_type_is_refused(
        self, body: bytes, content_type: str | None
    ) -> None:
        assert self.refused(body, content_type)[0] == 400

    @pytest.mark.parametrize("content_type", ["multipart/form-data; boundary=x", "Multipart/x"])
    def test_multipart_body_is_refused(self, content_type: str) -> None:
        status, message = self.refused(b"1", content_type)
        assert status == 415
        assert message.endswith(" is not understood, expected JSON or text")

    @pytest.mark.parametrize("coding", ["gzip", "GZIP", "deflate", "gzip, br"])
    def test_compressed_body_is_refused(self, coding: str) -> None:
        body = gzip.compress(b"{}")
        status, message = Hook().refused(body, hub(body, **{"content-encoding": coding}))
        assert status == 415
        assert message == f"content-encoding {coding} is not understood, send it uncompressed"
        assert Hook().post(b"{}", hub(b"{}", **{"content-encoding": "identity"}))[0] == 201

    def test_signature_covers_the_raw_body(self) -> None:
        for body in (b'{"a": 1}', b"payload=1", b"a=b"):
            headers = {**hub(body), "content-type": FORM}
            assert Hook().post(body, headers)[0] == 201
            assert Hook().refused(b"1", headers)[0] == 401


class TestSignature:
    def test_example_of_github_is_accepted(self) -> None:
        scheme = Signed(HUB, "sha256=")
        signature = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        headers = {"x-hub-signature-256": f"sha256={signature}"}
        assert scheme.check(SECRET.encode(), headers, b"Hello, World!") == ""

    # RFC 4231, 4.2 and 4.3.
    @pytest.mark.parametrize(
        ("secret", "body", "mac"),
        [
            (
                b"\x0b" * 20,
                b"Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
        ],
    )
    def test_examples_of_rfc_4231_are_accepted_in_hex_and_base64(
        self, secret: bytes, body: bytes, mac: str
    ) -> None:
        Signed("X-Sig").check(secret, {"x-sig": mac}, body)
        Signed("X-Sig").check(secret, {"x-sig": mac.upper()}, body)
        text = base64.b64encode(bytes.fromhex(mac)).decode()
        Signed("X-Sig", "v0=", "base64").check(secret, {"x-sig": f"v0={text}"}, body)
        for wrong in (text.lower(), text.rstrip("="), mac, ""):
            with pytest.raises(NotSigned):
                Signed("X-Sig", "", "base64").check(secret, {"x-sig": wrong}, body)

    @given(
        body=st.binary(),
        given=st.text(st.characters(max_codepoint=255)) | st.from_regex(r"[0-9a-fA-F]{64}"),
    )
    def test_any_other_header_raises_not_signed(self, body: bytes, given: str) -> None:
        for scheme in (
            Signed("X-Sig"),
            Signed("X-Sig", "a="),
            Signed("X-Sig", "", "base64"),
            Stamped(300, lambda: NOW, "X-Sig"),
            Token("X-Sig", "Bearer "),
        ):
            with pytest.raises(NotSigned):
                scheme.check(b"s3cret", {"x-sig": given}, body)


class TestStampedSignature:
    BODY = b'{"id": "evt_1", "object": "event"}'

    def check(self, header: str, now: float = NOW, body: bytes = BODY) -> str:
        return Stamped(300, lambda: now).check(b"whsec_x", {"stripe-signature": header}, body)

    def mac(self, seconds: object = NOW, secret: bytes = b"whsec_x") -> str:
        return hex_mac(secret, f"{seconds}.".encode() + self.BODY)

    def test_signature_covers_the_time_and_the_body(self) -> None:
        mac = self.mac()
        assert self.check(f"t={NOW},v1={mac}") == mac
        assert self.check(f"t={NOW}, v1={mac}, v0=abc") == mac
        assert self.check(f"v0=abc,v1={mac},t={NOW}") == mac

    def test_one_of_several_signatures_is_enough(self) -> None:
        other = self.mac(secret=b"whsec_y")
        assert self.check(f"t={NOW},v1={other},v1={self.mac()}") == self.mac()

    def test_signature_is_valid_within_the_tolerance(self) -> None:
        header = f"t={NOW},v1={self.mac()}"
        for now in (NOW - 300, NOW + 300):
            assert self.check(header, now)
        for now in (NOW - 301, NOW + 301):
            with pytest.raises(NotSigned, match=r"more than 300 s \(tolerance_seconds\)"):
                self.check(header, now)

    @pytest.mark.parametrize(
        "header",
        [
            "",
            "t=1",
            "v1=abc",
            "t={now},v0={mac}",
            "t={now},t={now},v1={mac}",
            "t=,v1={mac}",
            "t=x,v1={mac}",
            "t=-5,v1={mac}",
            "t=١,v1={mac}",
            "t=9999999999999,v1={mac}",
            ",,=,t,v1",
        ],
    )
    def test_malformed_header_is_refused(self, header: str) -> None:
        text = header.replace("{now}", str(NOW)).replace("{mac}", self.mac())
        with pytest.raises(NotSigned, match=r"is not of the form t=SECONDS,v1=HEX"):
            self.check(text)

    @pytest.mark.parametrize("header", ["t={now}5,v1={mac}", "t={now},v1=", "t={now},v1={mac}0"])
    def test_signature_of_another_time_or_body_is_refused(self, header: str) -> None:
        text = header.replace("{now}", str(NOW)).replace("{mac}", self.mac())
        with pytest.raises(NotSigned, match="does not fit"):
            self.check(text)
        with pytest.raises(NotSigned, match="does not fit"):
            self.check(f"t={NOW},v1={self.mac()}", body=b"{}")

    def test_replayed_request_has_the_same_idempotency_key(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pushserver.sources.types.webhook.source.time.time", lambda: NOW)
        hook = Hook(signature="stripe", secret="whsec_x", id_header="X-Id")
        headers = {
            "stripe-signature": f"t={NOW},v1={self.mac()}",
            "content-type": "application/json",
        }
        for number in range(2):
            assert hook.post(self.BODY, {**headers, "x-id": str(number)})[0] == 201
        assert hook.feed.keys == [self.mac()] * 2

    @pytest.mark.parametrize("ahead", [-MAX_TOLERANCE_SECONDS, 0, MAX_TOLERANCE_SECONDS])
    def test_key_is_remembered_as_long_as_the_signature_is_valid(self, ahead: float) -> None:
        now = [float(NOW)]
        keys = Keys(10)
        scheme = Stamped(Options("stripe").tolerance_seconds, lambda: now[0])
        stamp = NOW + round(ahead)
        headers = {"stripe-signature": f"t={stamp},v1={self.mac(stamp)}"}
        key = scheme.check(b"whsec_x", headers, self.BODY)
        # The first publication takes 5 s, the replayed one no time.
        keys.remember(KeyEntry("c", key, Receipt("e", 1, 1), now[0]), now[0])
        while keys.find("c", key, now[0] + 5.0):
            now[0] += 1
        with pytest.raises(NotSigned, match="tolerance_seconds"):
            scheme.check(b"whsec_x", headers, self.BODY)

    @given(st.text(st.sampled_from("tv01=, 5a\0ä")))
    def test_any_text_raises_not_signed(self, header: str) -> None:
        with pytest.raises(NotSigned):
            self.check(header)


class TestSlack:
    SECRET = "8f742231b10e8888abcd99yyyzzz85a5"

    def hook(self, monkeypatch: pytest.MonkeyPatch) -> Hook:
        monkeypatch.setattr("pushserver.sources.types.webhook.source.time.time", lambda: NOW)
        return Hook(signature="slack", secret=self.SECRET)

    def headers(self, body: bytes, seconds: object = NOW) -> dict[str, str]:
        mac = hex_mac(self.SECRET.encode(), f"v0:{seconds}:".encode() + body)
        return {
            "x-slack-signature": f"v0={mac}",
            "x-slack-request-timestamp": str(seconds),
            "content-type": "application/json",
        }

    def test_example_of_slack_is_accepted(self) -> None:
        body = (
            b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow"
            b"&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner"
            b"&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com"
            b"%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
            b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
        )
        signature = "a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
        headers = {
            "x-slack-signature": f"v0={signature}",
            "x-slack-request-timestamp": "1531420618",
        }
        assert Slack(5, lambda: 1531420618).check(self.SECRET.encode(), headers, body) == signature

    def test_challenge_is_answered_and_not_published(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hook = self.hook(monkeypatch)
        body = b'{"type": "url_verification", "token": "x", "challenge": "3eZbrw1a"}'
        assert hook.refused(body, {**self.headers(body), "x-slack-signature": "v0=a"})[0] == 401
        assert hook.post(body, self.headers(body)) == (200, {"challenge": "3eZbrw1a"})
        assert hook.feed.published == []
        event = b'{"type": "event_callback", "challenge": "x"}'
        assert hook.post(event, self.headers(event))[0] == 201

    def test_challenge_of_another_sender_is_published(self) -> None:
        body = b'{"type": "url_verification", "challenge": "3eZbrw1a"}'
        assert Hook().post(body, hub(body))[0] == 201

    @pytest.mark.parametrize(
        ("changed", "problem"),
        [
            ({"x-slack-request-timestamp": str(NOW + 1)}, "does not fit"),
            ({"x-slack-request-timestamp": "-1"}, "X-Slack-Request-Timestamp is not a time"),
            ({"x-slack-request-timestamp": "١"}, "X-Slack-Request-Timestamp is not a time"),
            ({"x-slack-signature": "v1=00"}, "does not begin with 'v0='"),
        ],
    )
    def test_other_signature_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], problem: str
    ) -> None:
        status, message = self.hook(monkeypatch).refused(b"1", {**self.headers(b"1"), **changed})
        assert (status, problem in message) == (401, True)

    def test_old_request_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        status, message = self.hook(monkeypatch).refused(b"1", self.headers(b"1", NOW - 146))
        assert (status, "more than 145 s" in message) == (401, True)


class TestStandardWebhooks:
    SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    BODY = b'{"test": 2432232314}'
    HEADERS = {  # noqa: RUF012
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }

    def check(
        self, changed: dict[str, str] | None = None, now: float = 1614265330, body: bytes = BODY
    ) -> str:
        headers = self.HEADERS | (changed or {})
        return StandardWebhooks(100, lambda: now).check(self.SECRET.encode(), headers, body)

    def test_example_of_the_specification_is_accepted_once(self) -> None:
        assert self.check() == self.HEADERS["webhook-id"]
        signatures = f"v1a,xyz v1,AAAA {self.HEADERS['webhook-signature']}"
        assert self.check({"webhook-signature": signatures}) == self.HEADERS["webhook-id"]

    def test_other_request_is_refused(self) -> None:
        for changed in (
            {"webhook-id": "msg_other"},
            {"webhook-timestamp": "1614265331"},
            {"webhook-timestamp": ""},
            {"webhook-signature": "v1,AAAA"},
            {"webhook-signature": ""},
            {"webhook-signature": self.HEADERS["webhook-signature"][3:]},
        ):
            with pytest.raises(NotSigned):
                self.check(changed)
        with pytest.raises(NotSigned):
            self.check(body=b"{}")
        with pytest.raises(NotSigned, match="more than 100 s"):
            self.check(now=1614265431)

    def test_request_is_published_with_its_id_as_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = "pushserver.sources.types.webhook.source.time.time"
        monkeypatch.setattr(clock, lambda: 1614265330)
        hook = Hook(signature="standard-webhooks", secret=self.SECRET)
        assert hook.post(self.BODY, self.HEADERS)[0] == 201
        assert hook.feed.keys == [self.HEADERS["webhook-id"]]

    @pytest.mark.parametrize("secret", ["whsec_", "whsec_!", "correct-horse"])
    def test_secret_has_to_be_base64(self, tmp_path: Path, secret: str) -> None:
        with pytest.raises(ValueError, match=r"^secret: expected base64"):
            WEBHOOK.make(Options("standard-webhooks", secret=secret))
        path = tmp_path / "secret"
        path.write_text(secret)
        hook = Hook(signature="standard-webhooks", secret="", secret_file=str(path))
        caught: list[Any] = []
        hook.running.addErrback(caught.append)
        assert "expected base64" in str(caught[0].value)
        assert standard_key(b"YWI=") == standard_key(b"whsec_YWI=") == b"ab"


def test_github_is_the_signature_of_hubs() -> None:
    assert Hook(signature="github").post(b"{}", hub(b"{}"))[0] == 201
    assert Hook(signature="github").refused(b"{ }", hub(b"{}"))[0] == 401


def test_plain_signature_has_its_header_and_encoding_from_the_options() -> None:
    hook = Hook(signature="plain", header="X-Shop-Hmac", encoding="base64", secret="abc")
    mac = base64.b64encode(bytes.fromhex(hex_mac(b"abc", b"{}"))).decode()
    assert hook.refused(b"{ }", {"x-shop-hmac": mac})[0] == 401
    assert hook.post(b"{}", {"x-shop-hmac": mac})[0] == 201


class TestToken:
    def test_token_is_the_secret(self) -> None:
        hook = Hook(signature="token", header="X-Gitlab-Token", secret="s3cret-ä")
        given = "s3cret-ä".encode().decode("latin-1")
        assert hook.refused(b"1", {"x-gitlab-token": "s3cret-ä"})[0] == 401
        assert hook.refused(b"1", {"x-gitlab-token": "€"})[0] == 401
        assert hook.refused(b"1", {})[1] == "there is no X-Gitlab-Token header"
        assert hook.post(b"1", {"x-gitlab-token": given})[0] == 201

    def test_token_may_have_a_prefix(self) -> None:
        hook = Hook(signature="token", header="Authorization", prefix="Bearer ", secret="abc")
        assert hook.refused(b"1", {"authorization": "abc"})[0] == 401
        assert hook.refused(b"1", {"authorization": "Bearer abd"}) == (
            401,
            "the token in Authorization is not the secret",
        )
        assert hook.post(b"1", {"authorization": "Bearer abc"})[0] == 201


class TestSecret:
    def test_secret_may_be_in_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        path.write_bytes(SECRET.encode() + b"\r\n")
        hook = Hook(secret="", secret_file=str(path))
        assert hook.post(b"1", hub(b"1"))[0] == 201
        assert hook.feed.oks == 1

    @pytest.mark.parametrize("content", [None, b"", b" \n", b"x" * 5_000])
    def test_source_with_an_invalid_secret_file_fails_and_refuses_requests(
        self, tmp_path: Path, content: bytes | None
    ) -> None:
        path = tmp_path / "secret"
        if content is not None:
            path.write_bytes(content)
        hook = Hook(secret="", secret_file=str(path))
        caught: list[Any] = []
        hook.running.addErrback(caught.append)
        assert isinstance(caught[0].value, SourceFailed)
        assert str(path) in str(caught[0].value)
        for secret in ("", SECRET):
            assert hook.refused(b"1", hub(b"1", secret))[0] == 503

    def test_repr_of_options_has_no_secret(self) -> None:
        assert "s3cret" not in repr(Options("hub-sha256", secret="s3cret"))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"signature": "hub-sha256"}, "^secret: expected either secret or secret_file"),
        (
            {"signature": "hub-sha256", "secret": "a", "secret_file": "b"},
            "^secret: expected either secret or secret_file",
        ),
        ({"signature": "none", "secret": "a"}, "^secret: expected no secret"),
        ({"signature": "hub-sha256", "secret": " "}, "^secret: it is blank"),
        ({"signature": "stripe", "secret": "\t\r\n"}, "^secret: it is blank"),
        ({"signature": "token", "secret": "\u00a0", "header": "a"}, "^secret: it is blank"),
        ({"signature": "hub-sha256", "secret_file": "\0"}, "^secret_file: "),
        ({"signature": "plain", "secret": "a"}, "^header: must be set"),
        ({"signature": "token", "secret": "a"}, "^header: must be set"),
        (
            {"signature": "plain", "secret": "a", "header": "a b"},
            r"^header: 'a\.\.\.', expected the",
        ),
        (
            {"signature": "stripe", "secret": "a", "header": "x"},
            '^header: expected only with signature = "p',
        ),
        (
            {"signature": "stripe", "secret": "a", "prefix": "x"},
            '^prefix: expected only with signature = "p',
        ),
        ({"signature": "none", "id_header": "a:"}, r"^id_header: 'a\.\.\.', expected the name"),
        ({"signature": "none", "event_header": "ä"}, "^event_header: 'ä', expected the name"),
    ],
)
def test_invalid_options_raise_value_error(options: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        WEBHOOK.make(Options(**options))


def test_source_provides_isource_and_ihook() -> None:
    source = WEBHOOK.make(Options("none"))
    assert ISource.providedBy(source)
    assert IHook.providedBy(source)


def test_tolerance_is_at_most_half_of_the_time_that_keys_are_remembered() -> None:
    table = "[sources.s]\ntype = 'webhook'\nchannel = 'c'\nsignature = 'none'\n"
    with pytest.raises(InvalidConfig, match=r"tolerance_seconds: expected a number <= 145\.0"):
        load(f"{table}tolerance_seconds = 146", "", {}, SourceTypes())
