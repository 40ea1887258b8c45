from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from planish.ir.errors import InputError
from planish.ir.storage import derived, stream
from planish.ir.storage.derived import Derived, transpose_into
from planish.ir.storage.tensors import nonfinite, survey, tensor_digest

RNG = np.random.default_rng(0)


def external(folder: Path, array: np.ndarray, offset: int = 0) -> ir.ExternalTensor:
    path = folder / "weights.bin"
    path.write_bytes(b"\7" * offset + array.tobytes())
    dtype = ir.tensor(array).dtype
    shape = ir.Shape(array.shape)
    return ir.ExternalTensor(
        "weights.bin", offset, array.nbytes, dtype, shape=shape, name="w", base_dir=folder
    )


def joined(tensor: ir.TensorProtocol, size: int = stream.PIECE) -> bytes:
    parts = [bytes(piece) for piece in stream.pieces(tensor, size)]
    assert all(len(part) == size for part in parts[:-1]) or isinstance(tensor, Derived)
    assert all(len(part) <= size for part in parts)
    return b"".join(parts)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_, ml_dtypes.bfloat16])
@pytest.mark.parametrize("offset", [0, 12])
def test_pieces_are_the_bytes_of_a_file(tmp_path: Path, dtype: type, offset: int) -> None:
    array: np.ndarray = RNG.integers(0, 2, (33, 17)).astype(dtype)
    tensor = external(tmp_path, array, offset)
    assert joined(tensor, 64) == array.tobytes() == joined(tensor)
    assert np.array_equal(stream.array_of(tensor), array)
    assert joined(ir.tensor(array), 64) == array.tobytes()
    assert tensor.raw is None, "the file was mapped"


def test_pieces_of_what_is_no_plain_array() -> None:
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    packed = np.array([1, -2, 3], ml_dtypes.int4)
    assert joined(ir.Tensor(turned)) == np.ascontiguousarray(turned).tobytes()
    assert joined(ir.Tensor(packed)) == ir.Tensor(packed).tobytes() == b"\xe1\x03"
    assert joined(ir.tensor(np.zeros((0, 4), np.float32))) == b""
    assert joined(ir.tensor(np.float64(3.0))) == np.float64(3.0).tobytes()


def test_a_file_that_became_shorter_is_said(tmp_path: Path) -> None:
    tensor = external(tmp_path, np.zeros(100, np.float32))
    (tmp_path / "weights.bin").write_bytes(bytes(390))
    with pytest.raises(InputError, match="has become shorter"):
        joined(tensor)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_file_that_became_a_link_is_not_followed(tmp_path: Path, link: object) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    tensor = external(folder, np.zeros(100, np.float32))
    (tmp_path / "secret").write_bytes(bytes(400))
    (folder / "weights.bin").unlink()
    link(tmp_path / "secret", folder / "weights.bin")  # type: ignore[operator]
    with pytest.raises(InputError, match="has become a"):
        joined(tensor)


def test_a_survey_reads_once_what_both_checks_ask_for(tmp_path: Path) -> None:
    array = np.arange(100, dtype=np.float32)
    array[[3, 5, 7]] = np.nan, np.inf, -np.inf
    tensor = external(tmp_path, array)
    survey([tensor, ir.tensor(array)])
    (tmp_path / "weights.bin").unlink()
    assert nonfinite(tensor) == (1, 2) == nonfinite(ir.tensor(array))
    assert tensor_digest(tensor) == tensor_digest(ir.tensor(array))


def test_a_survey_passes_errors_on(tmp_path: Path) -> None:
    tensors = [external(tmp_path, np.zeros(9, np.float32)) for _ in range(20)]
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        survey(tensors)


@pytest.mark.parametrize(
    "shape", [(1, 1), (7, 300), (300, 7), (64, 64), (513, 129), (0, 5), (5, 0)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.float8_e4m3fn])
def test_tiles_make_a_transpose(shape: tuple[int, int], dtype: type) -> None:
    source: np.ndarray = RNG.integers(0, 9, shape).astype(dtype)
    target = np.empty(shape[::-1], dtype)
    transpose_into(target, source)
    assert np.array_equal(target, source.T)


@pytest.mark.parametrize("block", [1 << 26, 1 << 12, 100])
@pytest.mark.parametrize("size", [stream.PIECE, 256])
@pytest.mark.parametrize(("transposed", "factor"), [(True, 1.0), (True, 0.5), (False, 3.0)])
def test_a_derived_weight_in_blocks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    block: int,
    size: int,
    transposed: bool,
    factor: float,
) -> None:
    array = RNG.standard_normal((70, 90)).astype(np.float32)
    monkeypatch.setattr(derived, "BLOCK", block)
    monkeypatch.setattr(derived, "PIECE", 1 << 11)
    wanted = np.ascontiguousarray((array.T if transposed else array) * np.float32(factor))
    for source in (external(tmp_path, array), ir.tensor(array)):
        tensor = Derived(source, transposed, factor)
        assert joined(tensor, size) == wanted.tobytes()
        assert np.array_equal(tensor.numpy(), wanted)
        assert tuple(tensor.shape) == wanted.shape
        assert tensor.tobytes() == wanted.tobytes()
        assert tensor_digest(tensor) == tensor_digest(ir.tensor(wanted))


def test_a_derived_weight_of_half_bytes() -> None:
    array = np.array([[1, -2, 3], [4, 5, -6]], ml_dtypes.float4_e2m1fn)
    tensor = Derived(ir.Tensor(array), True)
    assert joined(tensor) == ir.Tensor(np.ascontiguousarray(array.T)).tobytes()


def test_derived_twice_is_derived_once_more(tmp_path: Path) -> None:
    array = RNG.standard_normal((20, 30)).astype(np.float32)
    twice = Derived(Derived(external(tmp_path, array), True), True, 2.0)
    assert joined(twice) == (array * np.float32(2)).tobytes()


def test_how_much_is_held_can_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = RNG.standard_normal((70, 90)).astype(np.float32)
    monkeypatch.setattr(derived, "BLOCK", 1 << 10)
    reads: list[int] = []

    def counted(*given: Any) -> Iterator[memoryview]:
        reads.append(1)
        return stream.pieces(*given)

    monkeypatch.setattr(derived, "pieces", counted)
    tensor = Derived(external(tmp_path, array), True)
    with derived.holding(1 << 20):
        assert joined(tensor) == np.ascontiguousarray(array.T).tobytes()
    assert not reads
    with derived.holding(array.nbytes // 3):
        assert joined(tensor) == np.ascontiguousarray(array.T).tobytes()
    assert len(reads) == 3
