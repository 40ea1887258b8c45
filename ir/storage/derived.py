"""A weight transposed or scaled when its bytes are asked for, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import onnx_ir as ir

from .stream import PIECE, Array, array_of, is_packed, little, pieces

BLOCK = 1 << 26  # bytes of a weight that are held to transpose it, unless ``holding`` says more
LINE = 64  # bytes of a cache line
ROWS = 256  # rows written side by side: few enough that their lines stay in the cache


_block: ContextVar[int | None] = ContextVar("block", default=None)


@contextmanager
def holding(block: int) -> Iterator[None]:
    """While open, up to ``block`` bytes are held to transpose a weight.

    A larger weight is read once for every block of the result.
    """
    before = _block.set(block)
    try:
        yield
    finally:
        _block.reset(before)


class Derived(ir.LazyTensor):
    """``source`` transposed and times ``factor``; neither is ever held whole if it is large.

    source: of rank 2 where it is transposed. The product is in the source's own dtype.
    """

    def __init__(self, source: ir.TensorProtocol, transposed: bool, factor: float = 1.0) -> None:
        shape = source.shape.numpy()
        super().__init__(
            lambda: ir.Tensor(self._whole(), dtype=source.dtype),
            dtype=source.dtype,
            shape=ir.Shape(shape[::-1] if transposed else shape),
        )
        self.source = source
        self.transposed = transposed
        self.factor = factor

    def numpy(self) -> Array:
        """All elements; for what is known to be small enough."""
        return self._whole()

    def pieces(self, size: int = PIECE) -> Iterator[memoryview]:
        """The bytes in order, at most ``size`` at a time."""
        for block in self._blocks():
            flat = np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
            for start in range(0, len(flat), size):
                yield flat[start : start + size]

    def _whole(self) -> Array:
        if is_packed(self.dtype):
            array = self.source.numpy()
            return self._scaled(np.ascontiguousarray(array.T if self.transposed else array))
        result = np.empty(self.shape.numpy(), little(self.dtype))
        flat, start = result.reshape(-1), 0
        for block in self._blocks():
            flat[start : start + block.size] = block.reshape(-1)
            start += block.size
        return result

    def _blocks(self) -> Iterator[Array]:
        """Whole rows of the result, some at a time; any cut where nothing is transposed."""
        if is_packed(self.dtype):
            yield np.frombuffer(ir.Tensor(self._whole(), dtype=self.dtype).tobytes(), np.uint8)
        elif not self.transposed:
            for piece in pieces(self.source):
                yield self._scaled(np.frombuffer(piece, little(self.dtype)))
        elif self.nbytes <= (block := _block.get() or BLOCK):
            yield from self._turned(array_of(self.source))
        else:
            yield from self._gathered(block)

    def _turned(self, source: Array) -> Iterator[Array]:
        """Of a source in memory."""
        columns = source.shape[1]
        step = max(1, PIECE // max(1, source.shape[0] * source.itemsize))
        for start in range(0, columns, step):
            block = np.empty((min(step, columns - start), source.shape[0]), source.dtype)
            transpose_into(block, source[:, start : start + step])
            yield self._scaled(block)

    def _gathered(self, held: int) -> Iterator[Array]:
        """Of a large source: it is read once for every ``held`` bytes of the result."""
        rows, columns = self.source.shape.numpy()
        dtype = little(self.dtype)
        step = max(1, held // (rows * dtype.itemsize))
        panel = max(1, PIECE // (columns * dtype.itemsize)) * columns * dtype.itemsize
        for start in range(0, columns, step):
            block = np.empty((min(step, columns - start), rows), dtype)
            done = 0
            for piece in pieces(self.source, panel):
                part = np.frombuffer(piece, dtype).reshape(-1, columns)
                there = block[:, done : done + len(part)]
                transpose_into(there, part[:, start : start + step])
                done += len(part)
            yield self._scaled(block)

    def _scaled(self, block: Array) -> Array:
        return block if self.factor == 1.0 else block * np.asarray(self.factor, block.dtype)


def transpose_into(target: Array, source: Array) -> None:
    """target[:] = source.T, in tiles that fit the cache: thirty times as fast as in one go."""
    width = max(1, LINE // source.itemsize)
    for row in range(0, target.shape[0], ROWS):
        rows = slice(row, row + ROWS)
        for column in range(0, target.shape[1], width):
            columns = slice(column, column + width)
            target[rows, columns] = source[columns, rows].T
