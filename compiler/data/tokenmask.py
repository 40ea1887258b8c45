"""Find the input that says which tokens are real, so that padding never counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ...ir.errors import InputError, UsageError, near
from ...ir.finding.masks import MASK_DTYPES, mask_inputs
from ...ir.provenance import Remark
from ...ir.signature import Signature, TensorSpec
from .feedset import Feeds, FeedSet

PADDED_SHARE = 0.1
"""Share of rows that must end (or start) alike before padding is suspected."""


@dataclass(frozen=True)
class TokenMask:
    """The token mask's name, None where there is none, and what the user should know of it."""

    name: str | None
    remarks: tuple[Remark, ...] = ()


def token_mask(
    model: ir.Model, signature: Signature, feeds: FeedSet, explicit: str | None = None
) -> TokenMask:
    """The integer or boolean [batch, sequence] input that is 1 (or True) for real tokens.

    ``explicit`` is taken if it can be a mask (else UsageError with near names, or InputError for
    what it holds); otherwise the
    one input that feeds only attention masks and holds only zeros and ones in all feeds. With
    none or several of them there is no mask, and a remark where padding is likely.
    """
    if explicit is not None:
        _check_explicit(explicit, signature, feeds)
        return TokenMask(explicit)
    found = [name for name in mask_inputs(model) if _is_binary(name, feeds)]
    if len(found) == 1:
        sentence = f"{found[0]!r} feeds only attention masks: tokens it leaves out do not count"
        return TokenMask(found[0], (_remark("note", found[0], "token-mask-found", sentence),))
    if len(found) > 1 and not _all_ones(found, feeds):
        return TokenMask(None, (_several(found),))
    padded = padding_suspected(feeds)
    return TokenMask(None, (_padding(padded),) if padded else ())


def padding_suspected(feeds: Iterable[Feeds]) -> str | None:
    """The first integer [batch, sequence] input whose rows look padded, else None.

    They do where at least two rows and a tenth of all end (or all start) with the same value
    two and more times, and are not that value throughout. Inputs of only zeros and ones (masks,
    token types) tell nothing.
    """
    runs: dict[str, tuple[Counter[tuple[str, int]], int]] = {}
    large: set[str] = set()
    for feed in feeds:
        for name, array in feed.items():
            if array.ndim != 2 or array.dtype.kind not in "iu":
                continue
            count, rows = runs.setdefault(name, (Counter(), 0))
            count.update(_repeated_ends(array))
            runs[name] = (count, rows + len(array))
            if array.size and (array.min() < 0 or array.max() > 1):
                large.add(name)
    padded = (
        name
        for name, (count, rows) in runs.items()
        if name in large and max(count.values(), default=0) >= max(2, PADDED_SHARE * rows)
    )
    return next(padded, None)


def _repeated_ends(rows: npt.NDArray[Any]) -> Iterator[tuple[str, int]]:
    """(side, value) for each row that repeats a value at that side but is not constant."""
    if rows.shape[1] < 3:
        return
    for row in rows[(rows != rows[:, :1]).any(axis=1)]:
        if row[-1] == row[-2]:
            yield "end", int(row[-1])
        if row[0] == row[1]:
            yield "start", int(row[0])


def _check_explicit(name: str, signature: Signature, feeds: FeedSet) -> None:
    specs = {spec.name: spec for spec in signature.inputs}
    fitting = [spec.name for spec in signature.inputs if _can_be_mask(spec)]
    if name not in specs:
        raise UsageError(f"token mask: the model has no input {name!r}", hint=near(name, fitting))
    if name not in fitting:
        raise UsageError(
            f"token mask: the input is {specs[name]}, not integers or booleans [batch, sequence]",
            hint=near(name, fitting) if fitting else "leave the option out",
        )
    if not _is_binary(name, feeds):
        raise InputError(
            f"token mask: {name!r} holds other values than 0 and 1",
            where=feeds.source,
            hint="a token mask is 1 for a real token and 0 for padding",
        )


def _can_be_mask(spec: TensorSpec) -> bool:
    known = spec.dtype in ir.DataType.__members__
    rank = 2 if spec.shape is None else len(spec.shape)
    return known and ir.DataType[spec.dtype] in MASK_DTYPES and rank == 2


def _is_binary(name: str, feeds: FeedSet) -> bool:
    return all(np.isin(feed[name], (0, 1)).all() for feed in feeds)


def _all_ones(names: Iterable[str], feeds: FeedSet) -> bool:
    return all(bool(np.all(feed[name])) for feed in feeds for name in names)


def _several(names: Iterable[str]) -> Remark:
    listed = " and ".join(repr(name) for name in names)
    sentence = f"{listed} could all be the token mask: padding counts; choose one of them"
    return _remark("missed", "", "several-token-masks", sentence)


def _padding(name: str) -> Remark:
    sentence = f"the rows of {name!r} look padded but no token mask is known: padding counts"
    return _remark("missed", name, "padding-counts", sentence)


def _remark(kind: Any, site: str, code: str, sentence: str) -> Remark:
    return Remark(kind, "calibration", site, code, sentence)
