"""Loading feeds from every form a user may give them in, and refusing what does not fit."""

from __future__ import annotations

import pickle
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from planish.compiler.data import feeds as feeds_module
from planish.compiler.data.feeds import load_feeds, read_npz
from planish.compiler.data.feedset import FeedSet
from planish.ir.errors import InputError, PlanishError, UsageError
from planish.ir.signature import Signature, TensorSpec

Spec = tuple[str, tuple[int | str | None, ...] | None]


def signature(**inputs: Spec) -> Signature:
    return Signature(tuple(TensorSpec(n, d, s) for n, (d, s) in inputs.items()), ())


TEXT = signature(ids=("INT64", ("batch", "seq")), mask=("INT64", ("batch", "seq")))
IMAGE = signature(x=("FLOAT", ("n", 3, 4, 5)), scale=("FLOAT", (2,)))


def text_arrays(samples: int, length: int = 6) -> dict[str, Any]:
    ids = np.arange(samples * length, dtype=np.int64).reshape(samples, length)
    return {"ids": ids, "mask": np.ones_like(ids)}


def save(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def problem(given: Any, wanted: Signature = TEXT) -> PlanishError:
    with pytest.raises(PlanishError) as caught:
        load_feeds(given, wanted)
    assert len(str(caught.value).splitlines()) < 12
    return caught.value


# -- forms ------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "sizes"), [(37, (16, 16, 5)), (16, (16,)), (1, (1,))])
def test_an_npz_is_cut_into_feeds(tmp_path: Path, samples: int, sizes: tuple[int, ...]) -> None:
    arrays = text_arrays(samples)
    loaded = load_feeds(save(tmp_path / "data.npz", **arrays), TEXT)
    assert (loaded.sizes, loaded.samples, len(loaded)) == (sizes, samples, len(sizes))
    assert np.array_equal(np.concatenate([feed["ids"] for feed in loaded]), arrays["ids"])
    assert loaded.source.endswith("data.npz")
    assert not loaded.synthetic


def test_an_input_without_a_symbolic_axis_is_repeated() -> None:
    x = np.random.default_rng(0).normal(size=(5, 3, 4, 5)).astype(np.float32)
    loaded = load_feeds({"x": x, "scale": np.array([2, 3], np.float32)}, IMAGE, batch=2)
    assert loaded.sizes == (2, 2, 1)
    assert all((feed["scale"] == [2, 3]).all() for feed in loaded)


def test_a_state_is_cut_along_its_own_axis() -> None:
    wanted = signature(x=("FLOAT", ("b", 1)), state=("FLOAT", (2, "b", 3)), rate=("INT64", ()))
    state = np.tile(np.arange(5, dtype=np.float32)[None, :, None], (2, 1, 3))
    given = {"x": state[0, :, :1], "state": state, "rate": np.int64(16000)}
    loaded = load_feeds(given, wanted, batch=2)
    assert [feed["state"].shape for feed in loaded] == [(2, 2, 3), (2, 2, 3), (2, 1, 3)]
    assert all((feed["state"] == feed["x"][None]).all() for feed in loaded)
    assert all(feed["rate"] == 16000 and feed["rate"].shape == () for feed in loaded)


@pytest.mark.parametrize("size", [1, 4])
def test_a_model_of_fixed_batch_gets_feeds_of_that_batch(size: int) -> None:
    wanted = signature(x=("FLOAT", (size, 3)), scale=("FLOAT", (2,)))
    x = np.arange(24, dtype=np.float32).reshape(8, 3)
    loaded = load_feeds({"x": x, "scale": np.array([1, 2], np.float32)}, wanted)
    assert [feed["x"].shape for feed in loaded] == [(size, 3)] * (8 // size)
    assert np.array_equal(np.concatenate([feed["x"] for feed in loaded]), x)
    assert len(load_feeds({"x": x[:size], "scale": np.array([1, 2], np.float32)}, wanted)) == 1
    if size > 1:
        assert (
            "feed 2: input 'x' is [3, 3]"
            in problem({"x": x[:7], "scale": np.array([1, 2], np.float32)}, wanted).what
        )


def test_a_folder_holds_a_feed_a_file_and_is_read_lazily(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, samples in (("b", 2), ("c", 3), ("a", 1)):
        save(tmp_path / f"{name}.npz", **text_arrays(samples, length=samples + 1))
    (tmp_path / "notes.txt").write_text("not a feed")
    loaded = load_feeds(tmp_path, TEXT)
    assert loaded.sizes == (1, 2, 3)
    assert [feed["ids"].shape for feed in loaded] == [(1, 2), (2, 3), (3, 4)]
    assert loaded.digest == load_feeds(str(tmp_path), TEXT).digest

    opened: list[str] = []

    def watched(path: Path) -> dict[str, Any]:
        opened.append(path.name)
        return read_npz(path)

    monkeypatch.setattr(feeds_module, "read_npz", watched)
    iterator = iter(loaded)
    next(iterator)
    assert opened == ["a.npz"]
    loaded[2]
    assert opened == ["a.npz", "c.npz"]


FUNCTIONS = """
    import numpy as np

    def arrays():
        return {"ids": np.zeros((20, 3), np.int64), "mask": np.ones((20, 3), np.int64)}

    def yields():
        buffer = np.zeros((2, 3), np.int64)
        for i in range(3):
            buffer[:] = i
            yield {"ids": buffer, "mask": np.ones((2, 3), np.int64)}

    def returns():
        return list(yields())

    def nothing():
        return iter(())

    def number():
        return 3

    def wrong():
        yield from yields()
        yield [1, 2]

    def breaks():
        yield next(yields())
        raise ValueError("no more")
"""


@pytest.fixture
def functions(tmp_path: Path) -> str:
    path = tmp_path / "data.py"
    path.write_text(textwrap.dedent(FUNCTIONS), encoding="utf8")
    return str(path)


def test_a_function_gives_feeds_or_arrays(functions: str) -> None:
    loaded = load_feeds(f"{functions}:yields", TEXT)
    assert [int(feed["ids"][0, 0]) for feed in loaded] == [0, 1, 2]  # the buffer was reused
    assert load_feeds(f"{functions}:returns", TEXT).sizes == (2, 2, 2)
    assert load_feeds(f"{functions}:arrays", TEXT).sizes == (16, 4)
    assert loaded.source == f"{functions}:yields"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("nothing", "there is not one feed"),
        ("number", "returned int, not feeds"),
        ("wrong", "feed 4 is of type list, not a dict"),
        ("breaks", "the function that gives feeds 'breaks' raised ValueError: no more"),
        ("yelds", "no function 'yelds'"),
    ],
)
def test_a_function_that_gives_no_feeds(functions: str, name: str, what: str) -> None:
    error = problem(f"{functions}:{name}")
    assert isinstance(error, InputError)
    assert what in error.what
    assert functions in error.where


def test_python_forms() -> None:
    parts = [text_arrays(2), text_arrays(3, length=4)]
    loaded = load_feeds(parts, TEXT)
    assert loaded.sizes == (2, 3)
    parts[0]["ids"][:] = -1
    assert (loaded[0]["ids"] >= 0).all()  # a copy
    assert load_feeds(loaded, TEXT) is loaded
    assert load_feeds(iter(parts), TEXT).sizes == (2, 3)
    with pytest.raises(InputError, match="no array for input 'x'"):
        load_feeds(loaded, IMAGE)


def test_arrays_of_other_libraries_are_taken_as_they_are() -> None:
    class Tensor:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.ones((2, 3), np.int64)

    assert load_feeds([{"ids": Tensor(), "mask": Tensor()}], TEXT).sizes == (2,)
    big_endian = np.arange(6).reshape(2, 3).astype(">i8")
    feed = load_feeds([{"ids": big_endian, "mask": np.ones((2, 3), np.int64)}], TEXT)[0]
    assert feed["ids"].dtype == np.int64
    assert np.array_equal(feed["ids"], big_endian)


def test_strings_and_small_floats() -> None:
    wanted = signature(text=("STRING", ("n",)), x=("BFLOAT16", ("n",)))
    given = {"text": np.array(["a", "bcd"], object), "x": np.ones(2, ml_dtypes.bfloat16)}
    feed = load_feeds([given], wanted)[0]
    assert feed["text"].tolist() == ["a", "bcd"]
    assert feed["text"].dtype.kind == "U"
    given["x"] = np.array([1, np.inf], ml_dtypes.bfloat16)
    assert "1 NaN or infinite" in problem([given], wanted).what


# -- refusals ---------------------------------------------------------------------------


def changed(**arrays: Any) -> list[dict[str, Any]]:
    """Three feeds, of which the second is changed."""
    second = {n: a for n, a in (text_arrays(2) | arrays).items() if a is not None}
    return [text_arrays(2), second, text_arrays(2)]


@pytest.mark.parametrize(
    ("arrays", "what", "hint"),
    [
        ({"mask": None}, "feed 2: no array for input 'mask'", "'ids', 'mask'"),
        (
            {"mask": None, "masc": np.ones((2, 6))},
            "feed 2: no array for input 'mask'",
            "'masc': is that the one",
        ),
        ({"label": np.ones(2)}, "feed 2: 'label' is not an input of the model", "ids, mask"),
        ({"masks": np.ones(2)}, "feed 2: 'masks' is not an input", "did you mean 'mask'"),
        (
            {"ids": np.ones((2, 6), np.int32)},
            "feed 2: input 'ids' is int32 [2, 6], the model wants INT64 [batch, seq]",
            "ids.astype(np.int64)",
        ),
        ({"ids": np.ones((2, 6))}, "is float64 [2, 6], the model wants INT64", "silently"),
        ({"ids": np.ones(6, np.int64)}, "input 'ids' is [6], the model wants", "batch axis"),
        ({"ids": np.ones((2, 6, 1), np.int64)}, "is [2, 6, 1]", "2 axes instead of 3"),
        (
            {"ids": np.ones((2, 5), np.int64)},
            "input 'mask' is [2, 6], so 'seq' is 6 here and 5 in 'ids'",
            "belong together",
        ),
        (
            {"mask": np.ones((3, 6), np.int64)},
            "input 'mask' is [3, 6], so 'batch' is 3 here and 2 in 'ids'",
            "belong together",
        ),
        ({"ids": np.ones((0, 6), np.int64)}, "there is nothing in it", "empty"),
        ({"ids": np.ones((2, 0), np.int64)}, "there is nothing in it", "empty"),
        ({"ids": [[1, 2]]}, "input 'ids' is of type list, not an array", "np.asarray(…, np.int64)"),
        ({"ids": np.array([[{}]], object)}, "holds Python objects", "numbers"),
    ],
)
def test_a_feed_that_does_not_fit(arrays: dict[str, Any], what: str, hint: str) -> None:
    error = problem(changed(**arrays))
    assert isinstance(error, InputError)
    assert what in error.what
    assert hint in error.hint
    assert error.where == "the feeds given"


@pytest.mark.parametrize(
    ("x", "what", "hint"),
    [
        ((2, 3, 4, 6), "is [2, 3, 4, 6], the model wants FLOAT [n, 3, 4, 5]", "axis 3 must be 5"),
        ((2, 4, 5, 3), "is [2, 4, 5, 3]", "transpose(0, 3, 1, 2)"),
        ((2, 1, 4, 5), "is [2, 1, 4, 5]", "axis 1 must be 3, not 1"),
    ],
)
def test_a_fixed_size_that_differs(x: tuple[int, ...], what: str, hint: str) -> None:
    feed = {"x": np.zeros(x, np.float32), "scale": np.ones(2, np.float32)}
    error = problem([feed], IMAGE)
    assert what in error.what
    assert hint in error.hint


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(bad: float) -> None:
    x = np.zeros((2, 3, 4, 5), np.float32)
    x[1, 2, 0, 3] = x[1, 2, 3, 3] = bad
    error = problem([{"x": x, "scale": np.ones(2, np.float32)}], IMAGE)
    assert "input 'x' holds 2 NaN or infinite values, the first at [1, 2, 0, 3]" in error.what


def test_an_empty_cache_of_past_keys_is_not_an_empty_feed() -> None:
    wanted = signature(ids=("INT64", ("b", "s")), past=("FLOAT", ("b", 4, "past", 8)))
    feed = {"ids": np.ones((2, 3), np.int64), "past": np.ones((2, 4, 0, 8), np.float32)}
    assert load_feeds([feed], wanted).samples == 2


def test_arrays_of_different_length_or_of_none() -> None:
    arrays = text_arrays(5)
    error = problem(arrays | {"mask": arrays["mask"][:4]})
    assert "different numbers of samples: 5 in 'ids', 4 in 'mask'" in error.what
    assert "not one sample" in problem(text_arrays(0)).what
    assert "not one feed" in problem([]).what


def test_an_input_that_is_no_tensor_cannot_be_fed() -> None:
    wanted = signature(x=("SEQUENCE(FLOAT)", None))
    assert "only tensor inputs" in problem([{"x": np.ones(2)}], wanted).hint


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", b"\x93NUMPY", pickle.dumps([1])])
def test_a_file_that_is_no_npz(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    error = problem(str(path))
    assert isinstance(error, InputError)
    assert error.where == str(path)
    assert "np.savez" in error.hint


def test_a_truncated_and_a_damaged_npz(tmp_path: Path) -> None:
    whole = Path(save(tmp_path / "whole.npz", **text_arrays(500))).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "damaged.npz").write_bytes(whole[:900] + b"\xff" * 64 + whole[964:])
    for name in ("cut.npz", "damaged.npz"):
        assert "not a readable .npz" in problem(str(tmp_path / name)).what


class Trap:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("sprung"),)


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "data.npz", ids=np.array([Trap()], object), mask=np.ones(1))
    assert "pickled" in problem(path).what
    (tmp_path / "raw.npz").write_bytes(pickle.dumps(Trap()))
    problem(str(tmp_path / "raw.npz"))
    assert not (tmp_path / "sprung").exists()


def test_places_that_hold_no_feeds(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no .npz" in problem(str(tmp_path / "empty")).what
    (tmp_path / "data.csv").write_text("1,2")
    assert "cannot be read from this file" in problem(tmp_path / "data.csv").what
    error = problem("missing.npz")
    assert "no such file" in error.what
    assert "file.py:function" in error.hint
    assert isinstance(problem(3), UsageError)
    with pytest.raises(UsageError):
        load_feeds([text_arrays(1)], TEXT, batch=0)


def test_a_file_of_the_folder_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", **text_arrays(1))
    save(tmp_path / "b.npz", ids=np.ones((1, 2)), mask=np.ones((1, 2), np.int64))
    assert "feed 2 (b.npz): input 'ids' is float64" in problem(tmp_path).what


def test_feeds_larger_than_memory_are_refused_before_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "data.npz", **text_arrays(100))
    monkeypatch.setattr(feeds_module, "available_memory", lambda: 10_000)
    for given in (path, (text_arrays(10) for _ in range(20))):
        assert "too much for this machine" in problem(given).what
    endless: Iterator[dict[str, Any]] = iter(lambda: text_arrays(10), None)
    assert "folder of .npz" in problem(endless).hint
    monkeypatch.setattr(feeds_module, "available_memory", lambda: None)
    assert isinstance(load_feeds(path, TEXT), FeedSet)


def test_memory_is_read_from_the_system() -> None:
    free = feeds_module.available_memory()
    assert free is None or free > 10_000_000
