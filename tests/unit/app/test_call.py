from __future__ import annotations

import pytest

from pushserver.app.call import Call
from pushserver.app.handlers import make_handler


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(1.99998, "2 s"), (0.1 + 0.2, "0.3 s"), (30.0, "30 s"), (0.25, "0.25 s"), (3600.0, "3600 s")],
)
def test_a_time_limit_is_rounded(seconds: float, shown: str) -> None:
    call = Call(make_handler("stop", lambda: None, None), ())
    waited = "was not called: it waited for a thread (handler_threads) for"
    assert call.late(seconds) == f"{waited} {shown}"
    call()
    assert call.late(seconds) == f"has not answered in {shown}"
