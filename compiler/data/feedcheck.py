"""Check a feed against a model's signature before anything runs on it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ...ir.errors import InputError, near
from ...ir.signature import Signature, TensorSpec, shape_text
from .feedset import Feeds


@dataclass(frozen=True)
class Place:
    """Which array of which feed a message is about. feed: ``feed 3``, ``the file`` …"""

    source: str
    feed: str
    spec: TensorSpec

    def error(self, given: str, hint: str) -> InputError:
        """What is wrong with this input of this feed, beside what the model wants."""
        return InputError(
            f"{self.feed}: input {self.spec.name!r} {given}, "
            f"the model wants {self.spec.dtype} {shape_text(self.spec.shape)}",
            where=self.source,
            hint=hint,
        )


def check_feed(given: Mapping[str, Any], signature: Signature, *, feed: str, source: str) -> Feeds:
    """The feed as arrays in signature order, nothing cast.

    feed: how messages call it (``feed 3``). Raises InputError that names the feed, the input,
    what was given and what is wanted: missing or unknown names, dtype, rank, fixed sizes, equal
    symbols of different size, nothing in it, NaN or infinity.
    """
    if not isinstance(given, Mapping):
        raise InputError(
            f"{feed} is of type {type(given).__name__}, not a dict from input name to array",
            where=source,
        )
    check_names(given, signature, feed=feed, source=source)
    arrays: Feeds = {}
    bound: dict[str, tuple[str, int]] = {}
    for spec in signature.inputs:
        place = Place(source, feed, spec)
        array = as_array(given[spec.name], place)
        _check_dtype(array, place)
        _check_shape(array, place)
        _check_symbols(array, place, bound)
        _check_finite(array, place)
        arrays[spec.name] = array
    return arrays


def check_names(given: Collection[str], signature: Signature, *, feed: str, source: str) -> None:
    """Raise InputError unless the names are the inputs' names."""
    wanted = [spec.name for spec in signature.inputs]
    unknown = sorted(str(name) for name in given if name not in wanted)
    for name in wanted:
        if name not in given:
            held = f"it holds {_list(unknown)}: is that the one?"
            hint = held if unknown else f"the model's inputs: {_list(wanted)}"
            raise InputError(f"{feed}: no array for input {name!r}", where=source, hint=hint)
    if unknown:
        what = f"{feed}: {unknown[0]!r} is not an input of the model"
        raise InputError(what, where=source, hint=near(unknown[0], wanted))


def as_array(value: object, place: Place) -> npt.NDArray[Any]:
    """The value as an array without a change of dtype; only arrays and tensors are taken."""
    if not isinstance(value, (np.ndarray, np.generic)) and not hasattr(value, "__array__"):
        kind = type(value).__name__
        raise place.error(
            f"is of type {kind}, not an array", f"give np.asarray(…, {_numpy_name(place)})"
        )
    array = np.asarray(value)
    if array.dtype.kind == "O":
        if not all(isinstance(item, str) for item in array.flat):
            raise place.error("holds Python objects", "give an array of numbers or of strings")
        return array.astype(np.str_)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _check_dtype(array: npt.NDArray[Any], place: Place) -> None:
    wanted = wanted_dtype(place.spec)
    if wanted is None:
        raise place.error("cannot be given as an array", "only tensor inputs can be fed")
    if array.dtype == wanted or (wanted.kind == "O" and array.dtype.kind == "U"):
        return  # ONNX strings: NumPy's own kind of string, never objects
    raise place.error(
        f"is {array.dtype.name} {list(array.shape)}",
        f"nothing is cast silently: feed {place.spec.name}.astype({_numpy_name(place)})",
    )


def _check_shape(array: npt.NDArray[Any], place: Place) -> None:
    shape = place.spec.shape
    given = f"is {list(array.shape)}"
    if shape is None:
        return
    if array.ndim != len(shape):
        raise place.error(given, _rank_hint(array.ndim, len(shape)))
    for axis, (size, wanted) in enumerate(zip(array.shape, shape, strict=True)):
        if isinstance(wanted, int) and size != wanted:
            raise place.error(given, _size_hint(array.shape, shape, axis))
    if array.size == 0 and not _is_empty_cache(array, shape):
        raise place.error(f"{given}: there is nothing in it", "leave empty feeds out")


def _is_empty_cache(array: npt.NDArray[Any], shape: Collection[int | str | None]) -> bool:
    """Whether it is a cache of past keys or values before the first step: its length is 0."""
    return array.ndim >= 3 and array.dtype.kind not in "iub" and array.shape[0] > 0


def _rank_hint(given: int, wanted: int) -> str:
    if given == wanted - 1:
        return "is the batch axis missing? add it with array[np.newaxis]"
    return f"give {wanted} axes instead of {given}"


def _size_hint(given: tuple[int, ...], wanted: tuple[int | str | None, ...], axis: int) -> str:
    """What to do about axis ``axis``: images often come with their channels last, or first."""
    for order in ((0, 3, 1, 2), (0, 2, 3, 1)):
        moved = [given[i] for i in order] if len(given) == 4 else []
        if moved and _fits(moved, wanted):
            return f"the channels stand elsewhere: feed array.transpose{order}"
    return f"axis {axis} must be {wanted[axis]}, not {given[axis]}"


def _fits(sizes: Iterable[int], wanted: Iterable[int | str | None]) -> bool:
    return all(s == w or not isinstance(w, int) for s, w in zip(sizes, wanted, strict=True))


def _check_symbols(
    array: npt.NDArray[Any], place: Place, bound: dict[str, tuple[str, int]]
) -> None:
    """Axes of the same name have the same size, in every input of a feed."""
    for axis, symbol in enumerate(place.spec.shape or ()):
        if not isinstance(symbol, str):
            continue
        other, size = bound.setdefault(symbol, (place.spec.name, array.shape[axis]))
        if array.shape[axis] != size:
            raise place.error(
                f"is {list(array.shape)}, so {symbol!r} is {array.shape[axis]} here and {size} "
                f"in {other!r}",
                "the inputs of one feed must belong together",
            )


def _check_finite(array: npt.NDArray[Any], place: Place) -> None:
    if array.dtype.kind not in "fc" and "float" not in array.dtype.name:
        return
    wrong = ~np.isfinite(array)
    count = int(np.count_nonzero(wrong))
    if count:
        first = [int(i) for i in np.unravel_index(np.argmax(wrong), wrong.shape)]
        raise place.error(
            f"holds {count} NaN or infinite values, the first at {first}",
            "mend or leave out these samples (a mask may use -1e4 for minus infinity)",
        )


def wanted_dtype(spec: TensorSpec) -> np.dtype[Any] | None:
    """The NumPy dtype of an input, None for sequences, optionals and the like."""
    if spec.dtype not in ir.DataType.__members__ or spec.dtype == "UNDEFINED":
        return None
    return np.dtype(ir.DataType[spec.dtype].numpy())


def _numpy_name(place: Place) -> str:
    dtype = wanted_dtype(place.spec)
    if dtype is None or dtype.kind == "O":
        return "np.str_"
    return f"np.{dtype.name}" if hasattr(np, dtype.name) else f"ml_dtypes.{dtype.name}"


def _list(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
