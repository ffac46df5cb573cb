from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.channels.publication import Publication
from pushserver.cluster import image_parts
from pushserver.cluster.image_parts import join, split
from pushserver.hub.follower import Image


def image(channel: str, sizes: list[int]) -> Image:
    rows = [
        Publication(channel, "e", n, n, 0.0, "", b"x" * size) for n, size in enumerate(sizes, 1)
    ]
    return Image(channel, "e", 0, 0, rows, [float(n) for n in range(len(rows))], 0)


def copied(part: list[Image]) -> list[Image]:
    """As the other end decodes it."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(part), type=list[Image])


@given(st.lists(st.lists(st.integers(0, 300), max_size=8), max_size=8))
def test_parts_of_images_are_short_and_make_the_same_images(sizes: list[list[int]]) -> None:
    images = [image(f"channel{n}", rows) for n, rows in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_parts, "PART_BYTES", 400)
        parts = list(split(images))
        for part in parts:
            # Up to the row or image that was over the bound.
            assert sum(len(row.data) for each in part for row in each.rows) <= 400 + 300
        assert join(each for part in parts for each in copied(part)) == images
        assert len(parts) == 1 or all(parts[:-1])


def test_few_images_are_one_part() -> None:
    images = [image("a", [10, 20]), image("b", [])]
    assert list(split(images)) == [images]
    assert list(split([])) == [[]]
