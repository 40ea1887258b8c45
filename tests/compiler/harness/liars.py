"""Passes that break one promise each, by name; ``register`` makes them known for a test.

Also imported by the process that runs a reproducer's command.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from planish.ir.errors import PassError
from planish.ir.rewriter import Rewriter
from planish.passes import registry
from planish.passes.api import Candidate, Context, Pass, Perturbation, Refusal, Semantics
from planish.passes.canonicalize import CanonicalizeOptions

Lower = Callable[[ir.Model, Rewriter], None]
LIARS: dict[str, type[Pass]] = {}
COUNTER = itertools.count()


class Liar(Pass):
    """One candidate on the whole graph; ``work`` is what it does."""

    semantics = Semantics.EXACT
    Options = CanonicalizeOptions
    work: Lower
    setting = "lie"

    def candidates(self, model: ir.Model, ctx: Context) -> Iterable[Candidate | Refusal]:
        return [Candidate("graph", self.setting)]

    def lower(
        self,
        model: ir.Model,
        candidate: Candidate,
        perturbation: Perturbation | None,
        rewriter: Rewriter,
        ctx: Context,
    ) -> None:
        type(self).work(model, rewriter)


def liar(name: str, semantics: Semantics = Semantics.EXACT) -> Callable[[Lower], Lower]:
    """Make a pass of a function."""

    def made(work: Lower) -> Lower:
        facts: dict[str, Any] = {"name": name, "semantics": semantics, "work": staticmethod(work)}
        LIARS[name] = type("Liar", (Liar,), facts)
        return work

    return made


def known(cls: type[Pass]) -> type[Pass]:
    LIARS[cls.name] = cls
    return cls


def register() -> None:
    """Make every liar known to the pipeline."""
    registry._REGISTRY.update(LIARS)


def first(model: ir.Model, op_type: str) -> ir.Node | None:
    return next((n for n in model.graph if n.op_type == op_type), None)


def swap(model: ir.Model, rewriter: Rewriter, old: str, new: str) -> None:
    """Replace the first node of one type by one of another."""
    node = first(model, old)
    if node is not None:
        made = rewriter.insert(new, list(node.inputs), before=node, name="swapped")
        rewriter.take_over(node.outputs[0], made.outputs[0])
        rewriter.remove(node)


@liar("changes-bits")
def changes_bits(model: ir.Model, rewriter: Rewriter) -> None:
    swap(model, rewriter, "Relu", "Abs")


@liar("spoils-softsign")
def spoils_softsign(model: ir.Model, rewriter: Rewriter) -> None:
    swap(model, rewriter, "Softsign", "Tanh")


@liar("changes-much", Semantics.REASSOCIATES)
def changes_much(model: ir.Model, rewriter: Rewriter) -> None:
    swap(model, rewriter, "Relu", "Abs")


@liar("changes-little", Semantics.REASSOCIATES)
def changes_little(model: ir.Model, rewriter: Rewriter) -> None:
    node = first(model, "MatMul")
    if node is not None and "w_moved" not in model.graph.initializers:
        weight = node.inputs[1]
        assert weight is not None
        assert weight.const_value is not None
        moved = rewriter.initializer("w_moved", weight.const_value.numpy() * np.float32(1 + 5e-5))
        rewriter.set_input(node, 1, moved)
        rewriter.sweep([weight])


@liar("gives-nan", Semantics.LOSSY)
def gives_nan(model: ir.Model, rewriter: Rewriter) -> None:
    swap(model, rewriter, "Relu", "Sqrt")


@liar("changes-the-signature")
def changes_the_signature(model: ir.Model, rewriter: Rewriter) -> None:
    output = model.graph.outputs[0]
    rewriter.set_type(output, ir.DataType.FLOAT, ir.Shape([7, 7]))
    swap(model, rewriter, "Relu", "Identity")


@liar("renames-an-output")
def renames_an_output(model: ir.Model, rewriter: Rewriter) -> None:
    made = rewriter.insert("Identity", [model.graph.inputs[0]], name="spare")
    made.outputs[0].name = "spare"
    model.graph.outputs[0].name = "renamed"


@liar("leaves-a-duplicate")
def leaves_a_duplicate(model: ir.Model, rewriter: Rewriter) -> None:
    node = rewriter.insert("Identity", [model.graph.inputs[0]], name="spare")
    node.outputs[0].name = model.graph.inputs[0].name


@liar("never-ends")
def never_ends(model: ir.Model, rewriter: Rewriter) -> None:
    while True:
        node = next(iter(model.graph))
        made = rewriter.insert("Identity", [model.graph.inputs[0]], before=node, name="more")
        rewriter.remove(made)


@liar("never-settles")
def never_settles(model: ir.Model, rewriter: Rewriter) -> None:
    node = next(iter(model.graph))
    made = rewriter.insert("Identity", [node.inputs[0]], before=node, name="more")
    rewriter.set_input(node, 0, made.outputs[0])


@known
class Offers(Liar):
    name = "offers-without-end"

    def candidates(self, model: ir.Model, ctx: Context) -> Iterable[Candidate | Refusal]:
        return (Candidate("graph", str(n)) for n in itertools.count())


@liar("declares-a-wrong-shape")
def declares_a_wrong_shape(model: ir.Model, rewriter: Rewriter) -> None:
    node = first(model, "Neg")
    if node is not None and first(model, "Identity") is None:
        made = rewriter.insert("Identity", node.inputs, before=node, name="spare")
        rewriter.set_type(made.outputs[0], ir.DataType.FLOAT, ir.Shape([3, 5, 7]))
        rewriter.set_input(node, 0, made.outputs[0])


@known
class Chooses(Liar):
    """Halves a weight until it is below a bound: settled after so many runs, if ever."""

    name = "halves-again"
    semantics = Semantics.REASSOCIATES
    bound = 0.0

    def perturb(self, model: ir.Model, candidate: Candidate, ctx: Context) -> None:
        return None

    def lower(self, model: ir.Model, candidate: Candidate, *rest: Any) -> None:
        value = model.graph.initializers["spare"]
        assert value.const_value is not None
        if value.const_value.numpy()[0] > self.bound:
            rest[1].set_tensor(value, value.const_value.numpy() / np.float32(2))


@known
class Looks(Liar):
    name = "touches-while-it-looks"

    def candidates(self, model: ir.Model, ctx: Context) -> Iterable[Candidate | Refusal]:
        node = first(model, "Relu")
        if node is not None:
            node.op_type = "Abs"
        return []


@known
class Perturbs(Liar):
    name = "touches-while-it-perturbs"

    def perturb(self, model: ir.Model, candidate: Candidate, ctx: Context) -> None:
        model.graph.initializers["w"].name = "elsewhere"

    def lower(self, *_: Any) -> None:
        pass


@liar("swaps-a-tensor")
def swaps_a_tensor(model: ir.Model, rewriter: Rewriter) -> None:
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy() * np.float32(2), name=value.name)


@liar("never-stores-the-same", Semantics.LOSSY)
def never_stores_the_same(model: ir.Model, rewriter: Rewriter) -> None:
    """The tensor is computed anew whenever its bytes are asked for."""

    def compute() -> ir.TensorProtocol:
        return ir.tensor(np.array([next(COUNTER)], np.float32))

    node = next(iter(model.graph))
    lazy = ir.LazyTensor(compute, dtype=ir.DataType.FLOAT, shape=ir.Shape([1]), cache=False)
    inputs = [node.inputs[0], rewriter.initializer("lazy", lazy)]
    rewriter.set_input(node, 0, rewriter.insert("Sum", inputs, before=node).outputs[0])


@liar("goes-behind-the-rewriter")
def goes_behind_the_rewriter(model: ir.Model, rewriter: Rewriter) -> None:
    node = first(model, "Relu")
    if node is not None:
        node.attributes["note"] = ir.AttrString("note", "mine")


@liar("raises-half-way")
def raises_half_way(model: ir.Model, rewriter: Rewriter) -> None:
    swap(model, rewriter, "Relu", "Abs")
    raise ValueError("half way")


@liar("raises-and-leaves-a-mess")
def raises_and_leaves_a_mess(model: ir.Model, rewriter: Rewriter) -> None:
    goes_behind_the_rewriter(model, rewriter)
    raise ValueError("half way")


@liar("gives-up")
def gives_up(model: ir.Model, rewriter: Rewriter) -> None:
    raise PassError("this is too hard")


@liar("draws")
def draws(model: ir.Model, rewriter: Rewriter) -> None:
    if not any(str(n.name).startswith("drawn") for n in model.graph):
        node = next(iter(model.graph))
        made = rewriter.insert(
            "Identity", node.inputs[:1], before=node, name=f"drawn{next(COUNTER)}"
        )
        rewriter.set_input(node, 0, made.outputs[0])


@liar("does-not-run", Semantics.LOSSY)
def does_not_run(model: ir.Model, rewriter: Rewriter) -> None:
    node = first(model, "Relu")
    if node is not None:
        shape = rewriter.initializer("shape", np.array([13, 17]))
        made = rewriter.insert("Reshape", [node.inputs[0], shape], before=node, name="squeezed")
        rewriter.set_input(node, 0, made.outputs[0])


@known
class Region(Liar):
    """Lowers to something else than what it perturbed to."""

    name = "lowers-something-else"
    semantics = Semantics.LOSSY

    def candidates(self, model: ir.Model, ctx: Context) -> Iterable[Candidate | Refusal]:
        return [Candidate("graph", "lie")] if first(model, "MatMul") else []

    def perturb(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        node = first(model, "MatMul")
        assert node is not None
        x, w = node.inputs
        assert x is not None
        assert w is not None
        assert w.const_value is not None
        rounded = np.round(w.const_value.numpy(), 2)
        return Perturbation((str(x.name),), (str(node.outputs[0].name),), {str(w.name): rounded})

    def lower(
        self,
        model: ir.Model,
        candidate: Candidate,
        perturbation: Perturbation | None,
        rewriter: Rewriter,
        ctx: Context,
    ) -> None:
        node = first(model, "MatMul")
        assert node is not None
        assert node.inputs[1] is not None
        assert node.inputs[1].const_value is not None
        rewriter.set_tensor(node.inputs[1], np.round(node.inputs[1].const_value.numpy(), 1))


@known
class OneOfMany(Liar):
    """Reassociates as a whole, but this candidate promises bits."""

    name = "one-candidate-lies"
    semantics = Semantics.REASSOCIATES

    def candidates(self, model: ir.Model, ctx: Context) -> Iterable[Candidate | Refusal]:
        return [
            Candidate("graph", "little", semantics=Semantics.EXACT),
            Candidate("graph", "nothing"),
        ]

    def lower(self, model: ir.Model, candidate: Candidate, *rest: Any) -> None:
        if candidate.setting == "little":
            changes_little(model, rest[1])


if __name__ != "__main__":
    register()
