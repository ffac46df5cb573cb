"""Kinds of proxies: how they are recognised, and the lines against their faults."""

from __future__ import annotations

from typing import get_args

import pytest

from pushserver.diagnosis.proxies import PROXIES, UNKNOWN, Fault, proxy_named, recognised

FAULTS: tuple[Fault, ...] = get_args(Fault)
SENT_BY_APACHE = ["Host", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Server"]


@pytest.mark.parametrize(
    ("server", "via", "name"),
    [
        ("nginx/1.22.1", "", "nginx"),
        ("openresty/1.25.3.1", "", "nginx"),
        ("Caddy", "", "Caddy"),
        ("pushserver", "1.1 Caddy", "Caddy"),
        ("Apache/2.4.71 (Debian) OpenSSL/3.0.19", "", "Apache"),
        ("pushserver", "1.1 haproxy", "HAProxy"),
        ("pushserver", "http/1.1 a (ApacheTrafficServer/9.2)", ""),
        ("cloudflare", "", ""),
        ("pushserver", "1.1 google", ""),
        ("pushserver", "", ""),
        ("", "", ""),
    ],
)
def test_a_proxy_is_recognised_by_an_answer(server: str, via: str, name: str) -> None:
    assert recognised(server, via) == name


def test_haproxy_is_recognised_by_the_case_of_its_headers() -> None:
    assert recognised("pushserver", lower=True) == "HAProxy"
    assert recognised("envoy", lower=True) == ""
    assert recognised("pushserver", "1.1 google", lower=True) == ""


@pytest.mark.parametrize(
    ("request_headers", "name"),
    [
        (SENT_BY_APACHE, "Apache"),
        ([*SENT_BY_APACHE, "X-Real-Ip", "X-Forwarded-Port"], "Traefik"),
        (["Host", "X-Forwarded-For", "X-Forwarded-Proto"], ""),
    ],
)
def test_a_proxy_that_leaves_answers_as_they_are_is_recognised_by_its_requests(
    request_headers: list[str], name: str
) -> None:
    assert recognised("pushserver", request=request_headers) == name
    assert recognised("nginx", request=request_headers) == "nginx"


def words(text: str) -> str:
    """The text with one space between its words, without comments."""
    return " ".join(
        word for line in text.splitlines() if not line.startswith("# ") for word in line.split()
    )


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", PROXIES)
def test_lines_against_a_fault_are_those_of_the_document(
    proxies_document: str, name: str, fault: Fault
) -> None:
    section = proxies_document.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    proxy = proxy_named(name)
    for lines in proxy.faults.get(fault, proxy.block).values():
        assert words(lines)
        assert words(lines) in words(section)
        assert lines in proxy.fix(fault)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["", "Traefik", "something else"])
def test_the_fix_of_another_proxy_is_that_of_nginx_and_names_the_document(
    name: str, fault: Fault
) -> None:
    proxy = proxy_named(name)
    assert proxy is UNKNOWN
    nginx = proxy_named("nginx").fix(fault)
    assert proxy.fix(fault) == f"{nginx}\n# of other proxies: docs/proxies.md"


def test_lines_of_several_faults_are_together_at_their_place() -> None:
    text = proxy_named("HAProxy").fix("X-Forwarded-For", "X-Forwarded-Proto")
    assert text.startswith("# haproxy.cfg, in the backend:\noption forwardfor\nhttp-request ")
    assert text.count("# ") == 1


def test_the_block_of_a_proxy_is_given_once_for_several_faults() -> None:
    caddy = proxy_named("Caddy")
    assert caddy.fix("Host", "X-Forwarded-Proto") == caddy.fix("streams")
    apache = proxy_named("Apache")
    assert apache.fix("Host", "X-Forwarded-For") == apache.fix("X-Forwarded-For")
