"""Whatever a model comes as, there is one imported graph and one baseline beside it."""

from __future__ import annotations

import hashlib
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest

from planish.compiler import exportcheck
from planish.compiler.source import Source, resolve_source
from planish.ir.errors import InputError, TargetError, UsageError
from planish.ir.pytorch.front import Exported
from planish.targets.runtime import open_session

Array = npt.NDArray[Any]

TEXT = """
<ir_version: 9, opset_import: ["" : 17]>
scorer (float[batch, 4] x) => (float[batch, 3] y) <float[4, 3] weight = {
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12
}> {
    h = MatMul(x, weight)
    half = Constant<value_float = 0.5>()
    y = Mul(h, half)
}
"""

X = np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4)
Y = X @ (np.arange(1, 13, dtype=np.float32).reshape(4, 3) / 2)


def resolve(source: Any, folder: Path, examples: Any = None, shapes: Any = "auto") -> Source:
    return resolve_source(source, examples, shapes, folder / "work")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check(source: Source) -> None:
    """The baseline answers as the text above says, and so does the imported graph."""
    imported = ir.to_proto(source.imported.model).SerializeToString()
    for model in (source.baseline, imported):
        np.testing.assert_allclose(open_session(model).run({"x": X})[0], Y, rtol=1e-5)


@pytest.fixture
def proto() -> onnx.ModelProto:
    model: onnx.ModelProto = onnx.parser.parse_model(TEXT)
    return model


def test_a_file_is_its_own_baseline(proto: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "scorer.onnx"
    onnx.save(proto, path)
    before = digest(path), path.stat().st_mtime_ns
    for given in (path, str(path)):
        source = resolve(given, tmp_path)
        assert source.baseline == path
        assert source.label == str(path)
        assert source.module is None
        check(source)
    assert (digest(path), path.stat().st_mtime_ns) == before
    assert not list((tmp_path / "work").iterdir())


def test_a_relative_path(
    proto: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(proto, tmp_path / "scorer.onnx")
    monkeypatch.chdir(tmp_path)
    source = resolve("scorer.onnx", tmp_path)
    assert source.label == "scorer.onnx"
    monkeypatch.chdir(os.sep)
    check(source)


def test_a_proto_is_written_as_it_is(proto: onnx.ModelProto, tmp_path: Path) -> None:
    before = proto.SerializeToString(deterministic=True)
    source = resolve(proto, tmp_path)
    assert source.label == "scorer"
    assert source.baseline.parent == tmp_path / "work"
    assert source.baseline.read_bytes() == before
    assert proto.SerializeToString(deterministic=True) == before
    check(source)


def test_an_ir_model_stays_as_it_is(tmp_path: Path) -> None:
    model = ir.from_onnx_text(TEXT)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    source = resolve(model, tmp_path)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    check(source)


def test_other_things_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a model cannot be a list") as error:
        resolve([1, 2], tmp_path)
    assert "torch.nn.Module" in error.value.hint
    with pytest.raises(InputError, match="no such model file"):
        resolve(tmp_path / "nowhere.onnx", tmp_path)


def test_example_inputs_go_with_torch_only(proto: onnx.ModelProto, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="go with a PyTorch module"):
        resolve(proto, tmp_path, examples=(X,))


def test_a_function_in_a_file_that_needs_a_missing_torch(tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    file.write_text("raise ModuleNotFoundError('No module named torch', name='torch')\n")
    with pytest.raises(UsageError, match="needs torch, which is not installed") as error:
        resolve(f"{file}:model", tmp_path)
    assert error.value.hint == "pip install 'planish[torch]'"


@pytest.mark.torch
class TestTorch:
    """What needs torch; it is imported by the tests, not by this file."""

    SCORER = """
        import torch

        class Scorer(torch.nn.Module):
            def __init__(self):
                super().__init__()
                weight = torch.arange(1.0, 13.0).reshape(4, 3) / 2
                self.weight = torch.nn.Parameter(weight.to(torch.float32))
                self.drop = torch.nn.Dropout(0.5)

            def forward(self, x):
                return {"y": self.drop(x @ self.weight)}
    """

    @pytest.fixture
    def write(self, tmp_path: Path) -> Callable[[str], str]:
        """Write the file with a function of this body; its reference."""

        def write(body: str) -> str:
            file = tmp_path / "scorer.py"
            function = "def model():\n" + textwrap.indent(textwrap.dedent(body), "    ")
            file.write_text(textwrap.dedent(self.SCORER) + "\n" + function)
            return f"{file}:model"

        return write

    @pytest.fixture
    def scorer(self, tmp_path: Path) -> Any:
        """A module that computes what the text above does."""
        file = tmp_path / "module.py"
        file.write_text(textwrap.dedent(self.SCORER))
        names: dict[str, Any] = {"__name__": "module"}
        exec(file.read_text(), names)
        return names["Scorer"]()

    def test_a_module(self, scorer: Any, tmp_path: Path) -> None:
        source = resolve(scorer, tmp_path, examples=X[:2])
        assert scorer.training
        assert source.label == "Scorer"
        assert source.imported.signature.inputs[0].shape == ("batch", 4)
        check(source)
        assert source.module is not None
        np.testing.assert_allclose(source.module({"x": X})[0], Y, rtol=1e-5)

    def test_the_export_is_the_same_each_time(self, scorer: Any, tmp_path: Path) -> None:
        first = resolve(scorer, tmp_path / "a", examples=X)
        second = resolve(scorer, tmp_path / "b", examples=X)
        assert first.baseline.read_bytes() == second.baseline.read_bytes()

    def test_the_module_may_change_afterwards(self, scorer: Any, tmp_path: Path) -> None:
        source = resolve(scorer, tmp_path, examples=X)
        scorer.weight.data.zero_()
        check(source)

    def test_an_exported_program(self, scorer: Any, tmp_path: Path) -> None:
        import torch

        axes = {"x": {0: torch.export.Dim("n")}}
        program = torch.export.export(scorer.eval(), (torch.from_numpy(X),), dynamic_shapes=axes)
        source = resolve(program, tmp_path)
        assert source.imported.signature.inputs[0].shape == ("batch", 4)
        check(source)
        with pytest.raises(UsageError, match="holds its own"):
            resolve(program, tmp_path, examples=(X,))
        with pytest.raises(UsageError, match="has its sizes already"):
            resolve(program, tmp_path, shapes={"x": {0: "n"}})

    def test_a_program_that_still_drops_out(self, scorer: Any, tmp_path: Path) -> None:
        import torch

        program = torch.export.export(scorer.train(), (torch.from_numpy(X),))
        with pytest.raises(InputError, match="another 'y' at each run"):
            resolve(program, tmp_path)

    def test_a_function(self, write: Callable[[str], str], tmp_path: Path) -> None:
        source = resolve(write("return Scorer(), (torch.zeros(2, 4),)"), tmp_path)
        assert source.label == f"{tmp_path / 'scorer.py'}:model"
        assert source.imported.signature.inputs[0].shape == ("batch", 4)
        check(source)

    def test_a_function_that_gives_the_axes_too(
        self, write: Callable[[str], str], tmp_path: Path
    ) -> None:
        named = write("return Scorer(), torch.zeros(2, 4), {'x': {0: 'rows'}}")
        assert resolve(named, tmp_path).imported.signature.inputs[0].shape == ("rows", 4)
        fixed = write("return Scorer(), torch.zeros(2, 4), None")
        assert resolve(fixed, tmp_path).imported.signature.inputs[0].shape == (2, 4)

    def test_a_function_that_gives_a_program(
        self, write: Callable[[str], str], tmp_path: Path
    ) -> None:
        reference = write("return torch.export.export(Scorer().eval(), (torch.zeros(5, 4),))")
        check(resolve(reference, tmp_path))

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("return Scorer()", "returned a Scorer"),
            ("return 1, 2", "returned a tuple of int, int"),
            ("return ()", "returned a tuple of nothing"),
            ("return None", "returned a NoneType"),
            ("raise ValueError('no weights')", "raised ValueError: no weights"),
        ],
    )
    def test_a_function_that_gives_something_else(
        self, write: Callable[[str], str], tmp_path: Path, body: str, message: str
    ) -> None:
        with pytest.raises(InputError, match=message) as error:
            resolve(write(body), tmp_path)
        assert str(tmp_path / "scorer.py") in error.value.where

    def test_a_function_takes_no_examples(
        self, write: Callable[[str], str], tmp_path: Path
    ) -> None:
        with pytest.raises(UsageError, match="the function returns them"):
            resolve(write("return Scorer(), torch.zeros(2, 4)"), tmp_path, examples=X)

    def test_an_export_that_is_wrong_at_another_size_is_not_taken(self, tmp_path: Path) -> None:
        """torch 2.13 writes the length of the examples into a GRU that follows an LSTM."""
        import torch

        class Recurrent(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first = torch.nn.LSTM(4, 6, batch_first=True)
                self.second = torch.nn.GRU(6, 3, batch_first=True)

            def forward(self, x: torch.Tensor) -> Any:
                return self.second(self.first(x)[0])[0]

        module = Recurrent()
        source = resolve(module, tmp_path, examples=torch.randn(2, 5, 4))
        shape = source.imported.signature.inputs[0].shape
        x = np.zeros((3, 5 if shape == ("batch", 5, 4) else 7, 4), np.float32)
        expected = module(torch.from_numpy(x)).detach().numpy()
        found = open_session(source.baseline).run({"x": x})[0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)

    def test_a_module_that_the_runtime_cannot_run(self, tmp_path: Path) -> None:
        import torch

        module = torch.nn.Linear(4, 4).to(torch.bfloat16)
        with pytest.raises(TargetError) as error:
            resolve(module, tmp_path, examples=torch.zeros(2, 4, dtype=torch.bfloat16))
        assert error.value.where.endswith("of Linear")

    def test_weights_that_are_not_finite(self, scorer: Any, tmp_path: Path) -> None:
        scorer.weight.data[1, 2] = float("nan")
        with pytest.raises(InputError, match="'weight' holds 1 NaN") as error:
            resolve(scorer, tmp_path, examples=X)
        assert error.value.where == "Scorer"


def exported(original: Callable[..., list[Array]], **feeds: Array) -> Exported:
    """The text above as if it were the export of ``original``."""
    model = ir.from_onnx_text(TEXT)
    return Exported(model, ("x",), ("y",), original, feeds)


@pytest.fixture
def path(proto: onnx.ModelProto, tmp_path: Path) -> Path:
    onnx.save(proto, tmp_path / "scorer.onnx")
    return tmp_path / "scorer.onnx"


def right(feeds: Any) -> list[Array]:
    return [feeds["x"] @ (np.arange(1, 13, dtype=np.float32).reshape(4, 3) / 2)]


def test_the_check_accepts_what_is_right(path: Path) -> None:
    assert exportcheck.complaint(exported(right, x=X), path) == ""


@pytest.mark.parametrize(("error", "accepted"), [(5e-4, True), (2e-3, False)])
def test_the_check_allows_a_thousandth_of_the_largest_value(
    path: Path, error: float, accepted: bool
) -> None:
    def off(feeds: Any) -> list[Array]:
        (y,) = right(feeds)
        y[-1, 0] += error * np.abs(y).max()
        return [y]

    found = exportcheck.complaint(exported(off, x=X), path)
    assert (found == "") == accepted
    assert accepted or found.startswith("output 'y' is off by 0.002 of its largest value")


def test_the_check_changes_each_free_size(path: Path) -> None:
    sizes = []

    def seen(feeds: Any) -> list[Array]:
        sizes.append(len(feeds["x"]))
        return right(feeds) if len(feeds["x"]) == 5 else [right(feeds)[0] + 1]

    found = exportcheck.complaint(exported(seen, x=X), path)
    assert found.endswith("at batch = 1")
    assert set(sizes) == {5, 1}
    assert exportcheck.complaint(exported(right, x=X[:1]), path) == ""


def test_the_check_skips_sizes_that_the_module_does_not_take(path: Path) -> None:
    def picky(feeds: Any) -> list[Array]:
        if len(feeds["x"]) != 5:
            raise ValueError("five only")
        return right(feeds)

    assert exportcheck.complaint(exported(picky, x=X), path) == ""


def test_the_check_compares_shapes_and_nans(path: Path) -> None:
    def flat(feeds: Any) -> list[Array]:
        return [right(feeds)[0].reshape(-1)]

    def broken(feeds: Any) -> list[Array]:
        return [np.full_like(right(feeds)[0], np.nan)]

    assert "has shape [5, 3], the module's [15]" in exportcheck.complaint(exported(flat, x=X), path)
    assert "off by nan" in exportcheck.complaint(exported(broken, x=X), path)
    nothing = np.full_like(X, np.nan)
    assert exportcheck.complaint(exported(right, x=nothing), path) == ""


def test_the_check_blames_a_module_that_is_random(path: Path) -> None:
    random = np.random.default_rng(0)

    def dice(feeds: Any) -> list[Array]:
        return [right(feeds)[0] + random.normal(size=(len(feeds["x"]), 3)).astype(np.float32)]

    found = exportcheck.complaint(exported(dice, x=X), path)
    assert found == "the module itself gives another 'y' at each run"
