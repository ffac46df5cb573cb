from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from pushserver.config.limits import Limits


def test_every_limit_is_above_zero() -> None:
    limits = Limits()
    for bound in fields(Limits):
        if bound.name != "exempt_networks":
            assert getattr(limits, bound.name) > 0, bound.name


def test_limits_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Limits().queue_bytes = 0  # type: ignore[misc]
