"""One call of a PyTorch module as named tensors: what its examples are, and how to call it again.

torch is imported where it is used; planish works without it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import InputError

if TYPE_CHECKING:
    import torch

Array: TypeAlias = npt.NDArray[Any]
Feeds: TypeAlias = Mapping[str, Array]
Tree: TypeAlias = Any
"""Nested tuples, lists and dicts, as ``torch.utils._pytree`` takes them apart."""

_FORMS = "give a tuple of arguments, a dict by argument name, or one tensor"


@dataclass(frozen=True)
class Call:
    """Arguments of a module's forward, taken apart.

    leaves: all that the arguments hold, in order. names: of each leaf, after the argument that
    it came in (``mask``, ``states_0``). structure: how (args, kwargs) are put together again.
    arguments: forward's parameter -> structure of what was given for it.
    """

    leaves: tuple[Any, ...]
    names: tuple[str, ...]
    structure: Tree
    arguments: Tree

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The leaves that become inputs of the graph: the others are constants of it."""
        import torch

        pairs = zip(self.names, self.leaves, strict=True)
        return {name: leaf for name, leaf in pairs if isinstance(leaf, torch.Tensor)}

    @property
    def feeds(self) -> dict[str, Array]:
        """The example inputs by name."""
        return {name: to_array(tensor) for name, tensor in self.tensors.items()}

    def again(self, feeds: Feeds) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) with the tensors replaced by the arrays of the same name."""
        import torch

        replaced = [
            torch.from_numpy(np.array(feeds[name])).to(leaf.device, leaf.dtype)
            if isinstance(leaf, torch.Tensor)
            else leaf
            for name, leaf in zip(self.names, self.leaves, strict=True)
        ]
        args, kwargs = _unflatten(replaced, self.structure)
        return args, kwargs

    def shapes(self, axes: Mapping[str, Mapping[int, Any]]) -> dict[str, Any]:
        """Per-tensor axes as ``torch.export`` wants them: in the shape of forward's arguments."""
        per_leaf = [dict(axes[name]) if axes.get(name) else None for name in self.names]
        shapes: dict[str, Any] = _unflatten(per_leaf, self.arguments)
        return shapes


def call_of(forward: Callable[..., Any], examples: Any) -> Call:
    """The call that ``examples`` (a tuple, a mapping by argument name, one tensor) describes.

    Raises InputError where they do not fit forward's arguments, or hold no tensor.
    """
    import torch

    args, kwargs = _arguments(examples)
    signature = inspect.signature(forward)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        hint = f"forward takes {signature}; {_FORMS}"
        raise InputError(f"the example inputs do not fit: {error}", hint=hint) from error
    kwargs = {name: kwargs[name] for name in [*signature.parameters, *kwargs] if name in kwargs}
    leaves, structure = _flatten((args, kwargs))
    paths, arguments = _paths(dict(bound.arguments))
    variadic = {n for n, p in signature.parameters.items() if p.kind is p.VAR_KEYWORD}
    names = unique(["_".join(p[p[0] in variadic :]) for p in paths])
    call = Call(tuple(map(_leaf, leaves)), tuple(names), structure, arguments)
    if not call.tensors:
        raise InputError("the example inputs hold no tensor", hint=_FORMS)
    complex_ones = [name for name, t in call.tensors.items() if torch.is_complex(t)]
    if complex_ones:
        hint = "let the module take real and imaginary parts"
        raise InputError(f"input {complex_ones[0]!r} is complex; ONNX is not", hint=hint)
    return call


def program_call(program: torch.export.ExportedProgram) -> Call:
    """The call of an exported program on the examples it was exported with."""
    from torch.export.graph_signature import InputKind

    leaves, structure = _flatten(program.example_inputs)
    specs = program.graph_signature.input_specs
    names = [spec.arg.name for spec in specs if spec.kind is InputKind.USER_INPUT]
    return Call(tuple(map(_leaf, leaves)), tuple(names), structure, structure)


def plain_module(module: torch.nn.Module) -> torch.nn.Module:
    """The module itself, out of what torch.compile and DataParallel wrap around it.

    Raises InputError for a TorchScript module, which is no longer one.
    """
    import torch

    module = getattr(module, "_orig_mod", module)
    if isinstance(module, torch.nn.DataParallel):
        module = module.module
    if isinstance(module, torch.jit.ScriptModule):
        hint = "give the module that torch.jit.script or torch.jit.trace was called on"
        raise InputError("a TorchScript module cannot be exported", hint=hint)
    return module


def output_names(outputs: Tree) -> list[str]:
    """Names of what a module returns: keys and fields, else ``output`` or ``output_0``, ….

    Raises InputError for what is neither a tensor nor None: an ONNX graph cannot return it.
    """
    import torch

    names = []
    paths, leaves = _paths(outputs)[0], _flatten(outputs)[0]
    for path, leaf in zip(paths, leaves, strict=True):
        if leaf is None:
            continue
        if not isinstance(leaf, torch.Tensor):
            kind = type(leaf).__name__
            raise InputError(f"the module returns a {kind}", hint="let it return tensors only")
        text = "_".join(path)
        names.append("output" if not text else f"output_{text}" if text[0].isdigit() else text)
    if not names:
        raise InputError("the module returns no tensor", hint="let it return at least one")
    return unique(names)


def to_arrays(outputs: Tree) -> list[Array]:
    """What a module returned, as arrays in the order of ``output_names``."""
    return [to_array(leaf) for leaf in _flatten(outputs)[0] if leaf is not None]


def to_array(tensor: torch.Tensor) -> Array:
    """The tensor as numpy has it; bfloat16, which numpy lacks, as float32."""
    import torch

    plain = tensor.detach().cpu()
    array: Array = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    return array


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Put every part of the module into eval mode, without gradients, and back as it was."""
    import torch

    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes.items():
            part.training = training


@contextmanager
def gradient_free(module: torch.nn.Module) -> Iterator[None]:
    """Leave the module in its mode: an exported program has one only."""
    import torch

    with torch.no_grad():
        yield


def unique(names: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """The names, the later one of two equal ones with a number behind it."""
    found: list[str] = []
    for name in names:
        free, count = name, 0
        while free in found or free in taken:
            count += 1
            free = f"{name}_{count}"
        found.append(free)
    return found


def _arguments(examples: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    import torch

    if examples is None:
        hint = f"example_inputs: {_FORMS}"
        raise InputError("a PyTorch module needs example inputs", hint=hint)
    if isinstance(examples, (torch.Tensor, np.ndarray)):
        return (examples,), {}
    if isinstance(examples, Mapping):
        return (), {str(name): value for name, value in examples.items()}
    if isinstance(examples, (tuple, list)):
        return tuple(examples), {}
    kind = type(examples).__name__
    raise InputError(f"example inputs cannot be a {kind}", hint=_FORMS)


def _leaf(leaf: Any) -> Any:
    import torch

    if isinstance(leaf, np.ndarray):
        return torch.from_numpy(leaf)
    return leaf.detach() if isinstance(leaf, torch.Tensor) else leaf


def _paths(tree: Tree) -> tuple[list[tuple[str, ...]], Tree]:
    from torch.utils import _pytree

    pairs, structure = _pytree.tree_flatten_with_path(tree)
    return [tuple(_key(key) for key in path) for path, _ in pairs], structure


def _key(key: Any) -> str:
    """``key`` of a mapping, ``idx`` of a sequence, ``name`` of a field."""
    found = (getattr(key, kind) for kind in ("key", "idx", "name") if hasattr(key, kind))
    return str(next(found, key))


def _flatten(tree: Tree) -> tuple[list[Any], Tree]:
    from torch.utils import _pytree

    return _pytree.tree_flatten(tree)


def _unflatten(leaves: list[Any], structure: Tree) -> Any:
    from torch.utils import _pytree

    return _pytree.tree_unflatten(leaves, structure)
