"""Garbage is collected rarely while large graphs are worked on."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

OBJECTS = 100_000
"""New objects until garbage is collected, some ten megabytes; Python's own default is 700."""


@contextlib.contextmanager
def rarely_collecting() -> Iterator[None]:
    """Graphs are millions of objects that live on: by default a quarter of the time goes into
    looking for garbage among them."""
    before = gc.get_threshold()
    gc.set_threshold(OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
