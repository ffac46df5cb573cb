"""Images in parts: all that the author retains may be longer than a message of the link."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pushserver.channels.channel import CHANNEL_BYTES
from pushserver.channels.publication import sizes
from pushserver.hub.follower import Image

PART_BYTES = 8 * 2**20
"""The memory of a part of images, roughly; one publication may take more."""


def split(images: Iterable[Image]) -> Iterator[list[Image]]:
    """The images in parts, at least one; a long image becomes several of the same channel."""
    part: list[Image] = []
    size = 0
    for image in images:
        start, end = 0, len(image.rows)
        for n, row in enumerate(image.rows, 1):
            size += sizes(row)[1]
            if size > PART_BYTES and n < end:
                part.append(_rows(image, start, n))
                yield part
                part, size, start = [], 0, n
        part.append(_rows(image, start, end))
        size += CHANNEL_BYTES + len(image.channel)
        if size > PART_BYTES:
            yield part
            part, size = [], 0
    yield part


def join(parts: Iterable[Image]) -> list[Image]:
    """The images of all parts, which are in their order."""
    images: list[Image] = []
    for part in parts:
        if images and images[-1].channel == part.channel:
            images[-1].rows.extend(part.rows)
            images[-1].ages.extend(part.ages)
        else:
            images.append(part)
    return images


def _rows(image: Image, start: int, end: int) -> Image:
    rows, ages = image.rows[start:end], image.ages[start:end]
    floor, floor_seq = image.floor, image.floor_seq
    return Image(image.channel, image.epoch, floor, floor_seq, rows, ages, image.evicted)
