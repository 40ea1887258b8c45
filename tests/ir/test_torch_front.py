"""PyTorch modules become graphs that compute the same, with the sizes free that may be."""

from __future__ import annotations

import importlib.util
import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from planish.ir.errors import InputError, UsageError
from planish.ir.pytorch.front import Exported, export_module, export_program
from planish.ir.signature import Signature
from planish.ir.verify import violations
from planish.targets.runtime import open_session

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch

Array = npt.NDArray[Any]


class Perceptron(torch.nn.Module):
    """x [n, 8] -> [n, 3]; dropout makes train and eval mode differ."""

    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.Linear(8, 16)
        self.drop = torch.nn.Dropout(0.5)
        self.down = torch.nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.down(self.drop(torch.relu(self.up(x))))
        return scores


class Images(torch.nn.Module):
    """[n, 3, 8, 8] -> [n, 4], with a batch norm whose statistics are not the default ones."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.norm.running_mean = torch.randn(4)
        self.norm.running_var = torch.rand(4) + 0.5

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(image))).mean((2, 3))


class Masked(torch.nn.Module):
    """Token ids and an optional mask -> mean embedding; ``scale`` is a constant of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(50, 6)

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor | None = None, *, scale: float = 1.0
    ) -> dict[str, torch.Tensor]:
        hidden = self.table(ids) * scale
        if mask is not None:
            hidden = hidden * mask.unsqueeze(-1)
        return {"hidden": hidden, "pooled": hidden.mean(1)}


class From(torch.nn.Module):
    """A module out of a function, with one linear layer that the function may use."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)
        self.forward = lambda *args: function(self.linear, *args)


class Pair(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a @ b.T, b


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def run(exported: Exported, feeds: Mapping[str, Array]) -> list[Array]:
    return open_session(ir.to_proto(exported.model).SerializeToString()).run(feeds)


def shapes(exported: Exported) -> dict[str, Any]:
    signature = Signature.of(exported.model)
    return {spec.name: spec.shape for spec in (*signature.inputs, *signature.outputs)}


def agree(exported: Exported, feeds: Mapping[str, Array], module: torch.nn.Module) -> None:
    """The graph and ``original`` both give what the module gives when called by hand."""
    module.eval()
    with torch.no_grad():
        expected = module(**{name: torch.from_numpy(array) for name, array in feeds.items()})
    if not isinstance(expected, (tuple, list)):
        expected = list(expected.values()) if isinstance(expected, dict) else [expected]
    for a, b, c in zip(expected, run(exported, feeds), exported.original(feeds), strict=True):
        np.testing.assert_allclose(b, a.numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(c, a.numpy())


def test_a_perceptron_has_a_free_batch_and_keeps_its_mode(
    capfd: pytest.CaptureFixture[str],
) -> None:
    module = Perceptron().train()
    module.up.eval()
    before = [part.training for part in module.modules()]
    exported = export_module(module, normal(2, 8))
    assert [part.training for part in module.modules()] == before
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert shapes(exported) == {"x": ("batch", 8), "output": ("batch", 3)}
    assert not exported.remarks
    assert not violations(exported.model)
    assert capfd.readouterr() == ("", "")
    agree(exported, {"x": normal(5, 8).numpy()}, module)


def test_what_the_exporter_notes_of_this_machine_is_stripped() -> None:
    exported = export_module(Perceptron(), (normal(2, 8),))
    keys = {key for node in exported.model.graph for key in node.metadata_props}
    assert keys == {"pkg.torch.onnx.name_scopes"}
    assert __file__.encode() not in ir.to_proto(exported.model).SerializeToString()


def test_an_encoder_has_a_free_batch_and_sequence() -> None:
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    module = torch.nn.TransformerEncoder(layer, 2)
    exported = export_module(module, (normal(2, 5, 16),))
    assert shapes(exported) == {
        "src": ("batch", "sequence", 16),
        "output": ("batch", "sequence", 16),
    }
    agree(exported, {"src": normal(3, 7, 16).numpy()}, module)


def test_images_of_a_batch_of_one() -> None:
    module = Images().train()
    means = module.norm.running_mean
    assert means is not None
    before = means.clone()
    exported = export_module(module, normal(1, 3, 8, 8).numpy())
    assert torch.equal(means, before), "export must not train the batch norm"
    assert shapes(exported) == {"image": ("batch", 3, 8, 8), "output": ("batch", 4)}
    agree(exported, {"image": normal(4, 3, 8, 8).numpy()}, module)


def test_keyword_arguments_in_any_order_and_constants() -> None:
    ids, mask = torch.arange(10).reshape(2, 5), torch.ones(2, 5)
    mask[0, 3:] = 0
    module = Masked()
    exported = export_module(module, {"scale": 2.0, "mask": mask, "ids": ids})
    assert exported.input_names == ("ids", "mask")
    assert exported.output_names == ("hidden", "pooled")
    assert shapes(exported)["mask"] == ("batch", "sequence")
    assert shapes(exported)["hidden"] == ("batch", "sequence", 6)
    feeds: dict[str, Array] = {
        "ids": np.arange(21).reshape(3, 7),
        "mask": np.ones((3, 7), np.float32),
    }
    doubled = 2 * module.table.weight.detach().numpy()[feeds["ids"]]
    np.testing.assert_allclose(run(exported, feeds)[0], doubled, rtol=1e-6)
    np.testing.assert_allclose(exported.original(feeds)[0], doubled, rtol=1e-6)


def test_an_argument_that_was_left_out_is_no_input() -> None:
    exported = export_module(Masked(), (torch.arange(10).reshape(2, 5), None))
    assert shapes(exported)["ids"] == ("batch", "sequence")
    assert exported.input_names == ("ids",)


def test_sizes_that_nothing_ties_together_stay_apart() -> None:
    exported = export_module(Pair(), (normal(4, 8), normal(4, 8)))
    assert shapes(exported) == {
        "a": ("batch", 8),
        "b": ("batch_b", 8),
        "output_0": ("batch", "batch_b"),
        "output_1": ("batch_b", 8),
    }
    feeds = {"a": normal(2, 8).numpy(), "b": normal(3, 8).numpy()}
    agree(exported, feeds, Pair())


def test_nested_arguments_and_outputs_have_names_of_their_own() -> None:
    module = From(lambda linear, pair, more: {"x": linear(pair[0]), "both": (pair[1], more["b"])})
    pair = (normal(2, 8), normal(2, 8) + 1)
    exported = export_module(module, (pair, {"b": normal(2, 8) + 2}))
    assert exported.input_names == ("args_0_0", "args_0_1", "args_1_b")
    assert exported.output_names == ("x", "both_0", "both_1")
    outputs = run(exported, exported.feeds)
    for got, expected in zip(outputs, exported.original(exported.feeds), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(outputs[2], exported.feeds["args_1_b"])


def test_an_output_called_like_an_input_gets_another_name() -> None:
    class Echo(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"x": x, "twice": x + x, "again": x + x}

    exported = export_module(Echo(), normal(2, 3))
    assert exported.output_names == ("x_1", "twice", "again")
    assert not violations(exported.model)
    outputs = run(exported, exported.feeds)
    np.testing.assert_array_equal(outputs[0], exported.feeds["x"])
    np.testing.assert_array_equal(outputs[2], 2 * exported.feeds["x"])


def test_a_sequence_that_cannot_be_free_is_given_up_with_a_remark() -> None:
    module = torch.nn.Sequential(torch.nn.Conv1d(3, 4, 3))
    exported = export_module(module, normal(2, 3, 9))
    assert shapes(exported) == {"input": ("batch", 3, 9), "output": ("batch", 4, 7)}
    (remark,) = exported.remarks
    assert (remark.kind, remark.code) == ("missed", "axes-fixed")
    assert "batch and sequence free but with batch" in remark.sentence
    assert "static shape of 3" in remark.sentence
    agree(exported, {"input": normal(1, 3, 9).numpy()}, module)


def test_nothing_can_be_free() -> None:
    module = From(lambda linear, x: linear(x) + torch.arange(24.0).reshape(3, 8))
    exported = export_module(module, normal(3, 8))
    assert shapes(exported)["args_0"] == (3, 8)
    assert ["batch free but with fixed sizes" in r.sentence for r in exported.remarks] == [True]


def test_an_export_that_is_complained_of_is_not_taken() -> None:
    seen: list[Any] = []

    def accept(exported: Exported) -> str:
        seen.append(shapes(exported)["x"])
        return "" if seen[-1] == (2, 5, 8) else "wrong numbers"

    exported = export_module(Perceptron(), normal(2, 5, 8), accept=accept)
    assert seen == [("batch", "sequence", 8), ("batch", 5, 8), (2, 5, 8)]
    assert ["wrong numbers" in r.sentence for r in exported.remarks] == [True, True]
    with pytest.raises(InputError, match="the export is not the module: never good"):
        export_module(Perceptron(), normal(2, 8), None, accept=lambda _: "never good")


def test_the_users_own_axes() -> None:
    exported = export_module(Perceptron(), normal(2, 5, 8), {"x": {1: "words"}})
    assert shapes(exported) == {"x": (2, "words", 8), "output": (2, "words", 3)}
    fixed = export_module(Perceptron(), normal(2, 5, 8), None)
    assert shapes(fixed) == {"x": (2, 5, 8), "output": (2, 5, 3)}
    with pytest.raises(InputError, match=r"must be the arg names \['x'\]") as error:
        export_module(Perceptron(), normal(2, 8), {"y": {0: "n"}})
    assert "dynamic_shapes" in error.value.hint
    with pytest.raises(UsageError, match="'all'"):
        export_module(Perceptron(), normal(2, 8), "all")


def test_control_flow_on_values_is_named_with_its_line() -> None:
    def branches(linear: torch.nn.Module, x: torch.Tensor) -> Any:
        return linear(x) if x.sum() > 0 else x

    with pytest.raises(InputError, match="cannot export the module: GuardOnDataDependent") as error:
        export_module(From(branches), normal(2, 8))
    line = branches.__code__.co_firstlineno + 1
    assert error.value.where == f"From, {__file__}:{line}"
    assert "torch.where" in error.value.hint


def test_an_operator_without_an_onnx_form_is_named() -> None:
    module = From(lambda linear, x: torch.linalg.svd(linear(x))[1])
    with pytest.raises(InputError, match="_linalg_svd") as error:
        export_module(module, normal(2, 8))
    assert "\n" not in error.value.what


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (None, "needs example inputs"),
        ("x", "cannot be a str"),
        ((), "missing a required argument"),
        ((3,), "hold no tensor"),
        ({"z": np.zeros((2, 8), np.float32)}, "missing a required argument: 'x'"),
        (np.zeros((2, 9), np.float32), "fails on its own example inputs: RuntimeError: mat1"),
        (np.zeros((2, 8), np.complex64), "is complex"),
    ],
)
def test_example_inputs_that_do_not_fit(examples: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        export_module(Perceptron(), examples)
    assert error.value.hint


@pytest.mark.parametrize(("returned", "kind"), [(3, "int"), ("text", "str"), (None, "no tensor")])
def test_what_no_graph_can_return(returned: object, kind: str) -> None:
    with pytest.raises(InputError, match=f"returns.* {kind}"):
        export_module(From(lambda linear, x: returned), normal(2, 8))


def test_wrapped_modules_are_unwrapped() -> None:
    module = Perceptron()
    exported = export_module(torch.nn.DataParallel(module), normal(2, 8))
    agree(exported, {"x": normal(3, 8).numpy()}, module)
    with pytest.raises(InputError, match="TorchScript"):
        export_module(torch.jit.script(torch.nn.Linear(8, 8)), normal(2, 8))


def test_an_exported_program() -> None:
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    module = Masked().eval()
    program = torch.export.export(
        module,
        (torch.arange(10).reshape(2, 5),),
        {"mask": torch.ones(2, 5), "scale": 2.0},
        dynamic_shapes={"ids": free, "mask": free, "scale": None},
    )
    exported = export_program(program)
    assert shapes(exported) == {
        "ids": ("batch", "sequence"),
        "mask": ("batch", "sequence"),
        "hidden": ("batch", "sequence", 6),
        "pooled": ("batch", 6),
    }
    feeds: dict[str, Array] = {
        "ids": np.arange(21).reshape(3, 7),
        "mask": np.ones((3, 7), np.float32),
    }
    doubled = 2 * module.table.weight.detach().numpy()[feeds["ids"]]
    for outputs in (run(exported, feeds), exported.original(feeds)):
        np.testing.assert_allclose(outputs[0], doubled, rtol=1e-6)


def test_export_leaves_logs_and_warnings_as_they_were() -> None:
    disabled, filters = logging.root.manager.disable, list(warnings.filters)
    streams = sys.stdout, sys.stderr
    export_module(Perceptron(), normal(2, 8))
    assert logging.root.manager.disable == disabled
    assert list(warnings.filters) == filters
    assert (sys.stdout, sys.stderr) == streams


@pytest.mark.parametrize("missing", ["torch", "onnxscript"])
def test_a_missing_package_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> object:
        return None if name == missing else object()

    monkeypatch.setattr(importlib.util, "find_spec", find)
    with pytest.raises(UsageError, match=missing) as error:
        export_module(Perceptron(), normal(2, 8))
    assert error.value.hint == "pip install 'planish[torch]'"
    assert error.value.exit_code == 2
