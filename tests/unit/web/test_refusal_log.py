"""The log of refusals, its filter for fail2ban, and wrong keys."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from twisted.logger import LogLevel, formatEventAsClassicLogText

from pushserver.auth.wrong_keys import WrongKeys, group
from pushserver.config.limits import Limits
from pushserver.config.settings import Auth, Config
from pushserver.config.settings import Server as ServerSettings
from pushserver.web.refusal_log import ALL_PER_SECOND, AT_ONCE
from tests.e2e.blocks import block_with
from tests.unit.fakes.web import Line, Log, Response, Server, parse, request

KEY = "correct-horse"
CONFIG = Config(auth=Auth(api_keys=[KEY]), limits=Limits(wrong_keys_per_minute=3))
ATTACKER = "203.0.113.9"


def send(server: Server, data: bytes, peer: str = ATTACKER) -> Line:
    line = server.connect(peer)
    line.send(data)
    return line


def post(key: str) -> bytes:
    return request("/channels/a", "POST", b"1", x_api_key=key)


def foreign(server: Server, path: str = "/channels/a", peer: str = ATTACKER) -> None:
    send(server, request(path, origin="https://elsewhere.example"), peer).vanish()


def lines(server: Server, count: int, peer: str = ATTACKER) -> list[str]:
    with Log(LogLevel.info) as log:
        for _ in range(count):
            foreign(server, peer=peer)
        return log.take()


class TestRefusalLog:
    def test_has_status_address_method_path_and_reason(self) -> None:
        with Log(LogLevel.info) as log:
            send(Server(config=CONFIG), post("guess")).vanish()
        reason = "the API key is not one of auth.api_keys and auth.keys"
        assert log.take() == [f"refused 401 to {ATTACKER}: POST /channels/a: {reason}"]

    def test_goes_on_for_ever_and_counts_what_it_leaves_out(self) -> None:
        server = Server(Limits(new_connections_per_second=1_000))
        assert len(lines(server, 500)) == AT_ONCE
        for _ in range(3):
            server.clock.advance(2)
            (line, *_) = found = lines(server, 100)
            assert len(found) == 1
            assert re.search(r" \(and \d+ that were not logged\)$", line)

    def test_has_a_rate_for_each_address_and_status(self) -> None:
        server = Server(config=CONFIG)
        lines(server, 100)
        assert len(lines(server, 1, "198.51.100.7")) == 1
        with Log(LogLevel.info) as log:
            send(server, post("guess")).vanish()
        assert log.take()[0].startswith("refused 401 ")

    def test_has_a_rate_for_all_addresses(self) -> None:
        server = Server()
        with Log(LogLevel.info) as log:
            for n in range(300):
                foreign(server, peer=f"198.51.100.{n % 250}")
        assert len(log.take()) == ALL_PER_SECOND

    def test_names_the_client_behind_a_trusted_proxy_only(self) -> None:
        cases: list[tuple[list[str], str]] = [([], "127.0.0.1"), (["127.0.0.1"], ATTACKER)]
        for trusted, expected in cases:
            server = Server(config=Config(server=ServerSettings(trusted_proxies=trusted)))
            data = request("/channels/a", origin="https://a.example", x_forwarded_for=ATTACKER)
            with Log(LogLevel.info) as log:
                send(server, data, "127.0.0.1")
            assert log.take()[0].startswith(f"refused 403 to {expected}: ")

    def test_has_no_query_and_no_key(self) -> None:
        with Log(LogLevel.info) as log:
            send(
                Server(config=CONFIG),
                request("/channels/a?token=s3cret", "POST", b"1", x_api_key="s3cret"),
            )
        assert "s3cret" not in log.take()[0]

    def test_has_no_control_characters_and_is_short(self) -> None:
        bad = "\x1b]0;x\x07" + "y" * 5_000
        with Log(LogLevel.info) as log:
            send(Server(), request("/channels/" + "z" * 100, origin=bad))
        (line,) = log.take()
        assert line.isprintable()
        assert len(line) < 900


def classic(server: Server, data: bytes, peer: str = ATTACKER) -> list[str]:
    """The lines of a refusal in twistd's log."""
    with Log(LogLevel.info) as log:
        send(server, data, peer)
        return [str(formatEventAsClassicLogText(event)).rstrip("\n") for event in log]


def banned(line: str) -> str | None:
    """The address that fail2ban takes from a line by the filter of the documents."""
    block = block_with("docs/security.md", "failregex = ").text.partition("failregex = ")[2]
    # fail2ban removes the time first, and has its own pattern for <HOST>.
    rest = re.sub(r"^\S+T\S+|^\w{3} \d+ [\d:]+|^\d\d:\d\d:\d\d", "", line)
    for expression in block.split("\n"):
        if expression.strip():
            match = re.search(
                expression.strip().replace("<HOST>", r"(?P<host>[\da-fA-F:.]+)"), rest
            )
            if match:
                return match["host"]
    return None


class TestFilter:
    def test_example_of_the_document_is_a_line(self) -> None:
        [shown] = block_with("docs/security.md", "#info] refused 401 to").lines
        [line] = classic(Server(config=CONFIG), post("guess"), "203.0.113.9")
        assert line.partition(" ")[2] == shown.text.partition(" ")[2]

    @pytest.mark.parametrize("peer", [ATTACKER, "2001:db8::7"])
    def test_finds_the_address(self, peer: str) -> None:
        server = Server(config=CONFIG)
        for data in (post("guess"), request("/channels/a", origin="https://elsewhere.example")):
            (line,) = classic(server, data, peer)
            assert banned(line) == peer
            text = line.partition("] ")[2]
            assert banned(f"Nov 28 21:00:00 host pushserver[17]: {text}") == peer
            assert banned(f"21:00:00 {text}") == peer

    @pytest.mark.parametrize(
        "text",
        [
            "refused 401 to 192.0.2.1: POST /: x",
            "] refused 401 to 192.0.2.1: POST /: x",
            "[pushserver.web.refusal_log.RefusalLog#info] refused 401 to 192.0.2.1: x",
            "a b[1]: refused 401 to 192.0.2.1: POST /: x",
        ],
    )
    def test_finds_no_address_that_a_client_writes(self, text: str) -> None:
        server = Server()
        for data in (
            request("/channels/a", origin=text),
            request("/channels/a", origin="https://elsewhere.example", x_forwarded_for=text),
            request("/channels/" + text.replace(" ", "%20"), origin="https://elsewhere.example"),
            request("/nowhere", user_agent=text),
        ):
            for line in classic(server, data):
                assert banned(line) in (ATTACKER, None)

    @pytest.mark.parametrize("text", ["x[1]: refused 401 to 192.0.2.1: x", "12:00:00 refused"])
    def test_finds_nothing_in_the_text_of_an_application(self, text: str) -> None:
        text = f"{text} 401 to 192.0.2.1: x"
        for before in (
            "21:00:00 error: ",
            "21:00:00 |  ",
            "|  ",
            "2026-11-28T21:00:00+0000 [stdout#info] ",
            "Nov 28 21:00:00 host pushserver[17]: ",
            "Nov 28 21:00:00 host pushserver[17]: |  ",
        ):
            assert banned(before + text) is None

    def test_finds_nothing_in_other_lines(self) -> None:
        assert (
            banned("2026-11-28T21:00:00+0000 [-] pushserver 0.1.1: open http://192.0.2.1/") is None
        )


class TestWrongKey:
    def answers(self, server: Server, *keys: str, peer: str = ATTACKER) -> list[Response]:
        return [parse(send(server, post(key), peer).take()) for key in keys]

    def test_is_answered_late_with_429_over_the_rate(self) -> None:
        server = Server(config=CONFIG)
        assert [answer.status for answer in self.answers(server, *"abc")] == [401] * 3
        line = send(server, post("d") * 2)
        assert line.take() == b""
        server.clock.advance(1)
        answer = line.response()
        assert answer.error[0] == 429
        assert "wrong_keys_per_minute" in answer.error[1]
        assert answer["retry-after"] == "60"
        assert line.take() == b""
        server.clock.advance(1)
        assert line.response().status == 429

    @pytest.mark.parametrize("path", ["/api/info", "/channels/a"])
    def test_does_not_lock_out_right_keys_of_its_address(self, path: str) -> None:
        server = Server(config=CONFIG)
        for _ in range(100):
            send(server, request(path, "POST", b"{}", x_api_key="guess"))
        answer = parse(send(server, request(path, "POST", b"{}", x_api_key=KEY)).take())
        assert answer.status in (200, 201)
        bearer = request(path, "POST", b"{}", authorization=f"Bearer {KEY}")
        assert parse(send(server, bearer).take()).status in (200, 201)

    def test_of_another_address_is_not_slowed(self) -> None:
        server = Server(config=CONFIG)
        for _ in range(100):
            send(server, post("guess"))
        assert self.answers(server, "x", peer="198.51.100.7")[0].status == 401

    def test_is_allowed_again_later(self) -> None:
        server = Server(config=CONFIG)
        for _ in range(100):
            send(server, post("guess")).vanish()
        server.clock.advance(20)
        assert self.answers(server, "x")[0].status == 401

    def test_is_counted(self) -> None:
        server = Server(config=CONFIG)
        for _ in range(7):
            send(server, post("guess")).vanish()
        assert server.node.metrics.refusals["wrong_key"] == 7

    def test_of_a_peer_that_leaves_before_its_answer_leaves_nothing(self) -> None:
        server = Server(config=CONFIG)
        for _ in range(10):
            send(server, post("guess")).vanish()
        server.clock.advance(2)
        assert server.is_empty()

    def test_is_slowed_for_a_page_too(self) -> None:
        """The page shows failures to a caller with a key, and would tell that a guess is right."""
        server = Server(config=CONFIG)
        for _ in range(100):
            line = send(server, request("/", x_api_key="guess", accept="text/html"))
        assert line.take() == b""
        server.clock.advance(1)
        assert line.response().status == 429

    def test_has_a_generous_default(self) -> None:
        server = Server(config=replace(CONFIG, limits=Limits()))
        assert {answer.status for answer in self.answers(server, *["x"] * 30)} == {401}


class TestAddresses:
    @pytest.mark.parametrize(
        ("address", "name"),
        [
            ("203.0.113.9", "203.0.113.9"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::", "2001:db8:1:2::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("", ""),
            (None, ""),
            ("unknown", "unknown"),
        ],
    )
    def test_of_one_network_of_ipv6_count_together(self, address: str | None, name: str) -> None:
        assert group(address) == name

    def test_is_not_forgotten_for_many_others(self) -> None:
        keys = WrongKeys(1)
        assert not keys.is_too_many("203.0.113.9", 0)
        for n in range(10_000):
            keys.is_too_many(f"10.{n // 60_000}.{n // 250 % 250}.{n % 250}", 0)
        assert keys.is_too_many("203.0.113.9", 0)
