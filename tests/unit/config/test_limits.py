from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from pushserver.config.limits import Limits


def test_every_bound_is_bounded_above_zero_and_documented_by_its_name() -> None:
    limits = Limits()
    for bound in fields(Limits):
        assert getattr(limits, bound.name) > 0, bound.name


def test_bounds_do_not_change_under_those_who_hold_them() -> None:
    with pytest.raises(FrozenInstanceError):
        Limits().queue_bytes = 0  # type: ignore[misc]
