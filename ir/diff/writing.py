"""The patch of a difference, put down for the main graph; bodies go with their owner."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import onnx_ir as ir

from ..graph import captured_values, constant_tensor
from ..scopes import named_subgraphs
from ..storage.tensors import tensor_digest
from .changes import GraphDiff
from .grouping import differs
from .patch import Patch, Ref
from .pool import Source


class Writer:
    """Puts down what a diff found."""

    def __init__(self, diff: GraphDiff) -> None:
        self.before, self.after, self.found = diff.before, diff.after, diff.matching
        self.main_a = [a for a, owner in enumerate(self.before.owners) if owner < 0]
        self.main_b = [b for b, owner in enumerate(self.after.owners) if owner < 0]

    def patch(self) -> Patch:
        """All of it."""
        kept = self.kept
        stay = set(kept.values())
        made = [b for b in self.main_b if b not in stay]
        graph = self.after.model.graph
        old = {name for name, v in self.before.model.graph.initializers.items() if v.const_value}
        return Patch(
            tuple(str(self.before.nodes[a].name) for a in self.main_a if a not in kept),
            tuple(self._node(b) for b in made),
            tuple(self._rewired()),
            tuple(_encoded(ir.to_proto(v)) for v in graph.inputs),
            tuple((_encoded(ir.to_proto(v)), self._of_value(v)) for v in graph.outputs),
            {name: self._digest(name) for name in graph.initializers if name not in self.same},
            tuple(sorted(old - set(self.same.values()))),
            dict(self.after.model.opset_imports),
        )

    @cached_property
    def kept(self) -> dict[int, int]:
        """Nodes of the main graph that stay as they are, bodies included, before to after."""
        found: dict[int, int] = {}
        below = self._below()
        for a in self.main_a:
            b = self.found.pairs.get(a)
            if b is None or self.before.labels[a] != self.after.labels[b]:
                continue
            if self._bodies_agree(a, b, below, found):
                found[a] = b
        return found

    def _below(self) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
        """By node of the main graph, the nodes of its bodies, on both sides."""
        found = []
        for pool in (self.before, self.after):
            inside: dict[int, list[int]] = defaultdict(list)
            for number, owner in enumerate(pool.owners):
                top = owner
                while top >= 0 and pool.owners[top] >= 0:
                    top = pool.owners[top]
                if top >= 0:
                    inside[top].append(number)
            found.append(inside)
        return found[0], found[1]

    def _bodies_agree(
        self,
        a: int,
        b: int,
        below: tuple[dict[int, list[int]], dict[int, list[int]]],
        kept: Mapping[int, int],
    ) -> bool:
        mine, theirs = below[0].get(a, []), below[1].get(b, [])
        if not mine and not theirs:
            return not self.before.nodes[a].attributes.data or self._same_outputs(a, b, kept)
        if len(mine) != len(theirs) or any(self.found.pairs.get(n) not in theirs for n in mine):
            return False
        if any(differs(self.found, n, self.found.pairs[n]) for n in mine):
            return False
        read = (s for n in mine for s in self.before.sources[n] if s.kind == "node")
        inside = set(mine)
        steady = all(int(s.of) in inside or int(s.of) in kept for s in read)
        return steady and self._same_outputs(a, b, kept)

    def _same_outputs(self, a: int, b: int, kept: Mapping[int, int]) -> bool:
        """Whether the bodies of two nodes return the same."""
        one, other = self.before.nodes[a], self.after.nodes[b]
        graphs = zip(named_subgraphs(one), named_subgraphs(other), strict=False)
        for (_, x), (_, y) in graphs:
            pairs = list(zip(x.outputs, y.outputs, strict=False))
            if len(x.outputs) != len(y.outputs):
                return False
            if not all(self._same_value(p, q, kept) for p, q in pairs):
                return False
        return True

    def _same_value(self, x: ir.Value, y: ir.Value, kept: Mapping[int, int]) -> bool:
        one, other = constant_tensor(x), constant_tensor(y)
        if one is not None or other is not None:
            return bool(one and other and tensor_digest(one) == tensor_digest(other))
        makers = x.producer(), y.producer()
        if makers[0] is None or makers[1] is None:
            return makers == (None, None) and x.name == y.name
        number = self.before.number[makers[0]]
        mapped = self.found.pairs.get(number) == self.after.number[makers[1]]
        outer = self.before.owners[number] < 0
        return mapped and x.index() == y.index() and (not outer or number in kept)

    @cached_property
    def same(self) -> dict[str, str]:
        """Constants of the main graph after that are one stored before: names, after to before.

        One for one, and only where all nodes that stay and read the one read the other.
        """
        inner = self._kept_everywhere()
        uses: dict[str, set[str]] = defaultdict(set)
        back: dict[str, set[str]] = defaultdict(set)
        for a, b in inner.items():
            for x, y in zip(self.before.nodes[a].inputs, self.after.nodes[b].inputs, strict=True):
                if x is not None and y is not None and constant_tensor(x) is not None:
                    uses[str(y.name)].add(str(x.name))
                    back[str(x.name)].add(str(y.name))
        old, new = self.before.model.graph.initializers, self.after.model.graph.initializers
        found = {}
        for name in new:
            (one, *more) = sorted(uses.get(name, {""}))
            if one in old and not more and back[one] == {name}:
                found[name] = one
        free = [n for n in old if n not in found.values() and not back.get(n)]
        by_digest = {self._digest(n, before=True): n for n in free}
        for name in new:
            match = by_digest.get(self._digest(name)) if not uses.get(name) else None
            if name not in found and match is not None:
                found[name] = match
                del by_digest[self._digest(name)]
        return found

    def _kept_everywhere(self) -> dict[int, int]:
        """Nodes that stay, those in bodies of nodes that stay included."""
        below, found = self._below()[0], dict(self.kept)
        for a in self.kept:
            found |= {n: self.found.pairs[n] for n in below.get(a, ())}
        return found

    def _digest(self, name: str, *, before: bool = False) -> str:
        pool = self.before if before else self.after
        tensor = pool.model.graph.initializers[name].const_value
        assert tensor is not None
        return tensor_digest(tensor)

    def _rewired(self) -> Iterator[tuple[str, int, Ref]]:
        for a, b in self._kept_everywhere().items():
            sources = zip(self.before.sources[a], self.after.sources[b], strict=True)
            for slot, (x, y) in enumerate(sources):
                if not self._stays(a, slot, x, y, b):
                    value = self.after.nodes[b].inputs[slot]
                    yield str(self.before.nodes[a].name), slot, self._of_value(value)

    def _stays(self, a: int, slot: int, x: Source, y: Source, b: int) -> bool:
        if x.kind == "constant":
            one, other = self.before.nodes[a].inputs[slot], self.after.nodes[b].inputs[slot]
            assert one is not None and other is not None
            inside = str(other.name) not in self.after.model.graph.initializers
            return inside or self.same.get(str(other.name)) == one.name
        if x.kind == "node":
            top = int(x.of)
            kept = self.kept.get(top) if self.before.owners[top] < 0 else self.found.pairs.get(top)
            return y.kind == "node" and kept == y.of and x.output == y.output
        return x == y or x.kind == "body"

    def _of_value(self, value: ir.Value | None) -> Ref:
        """How a value of the graph after is called in the patch."""
        if value is None:
            return []
        name = str(value.name)
        if constant_tensor(value) is not None:
            return ["kept", self.same[name]] if name in self.same else ["tensor", name]
        maker = value.producer()
        if maker is None:
            return ["input", name]
        number, index = self.after.number[maker], value.index() or 0
        stays = self._origin(number)
        if stays is None:
            return ["made", str(maker.name), index]
        return ["kept", str(self.before.nodes[stays].outputs[index].name)]

    def _origin(self, number: int) -> int | None:
        a = self.found.inverse.get(number)
        return a if a is not None and self.kept.get(a) == number else None

    def _node(self, number: int) -> dict[str, Any]:
        node = self.after.nodes[number]
        return {
            "name": str(node.name),
            "op": node.op_type,
            "domain": node.domain,
            "overload": node.overload,
            "attributes": [_encoded(ir.to_proto(a)) for a in node.attributes.values()],
            "inputs": [self._of_value(value) for value in node.inputs],
            "outputs": [str(value.name or "") for value in node.outputs],
            "captured": {str(v.name): self._of_value(v) for v in captured_values(node)},
        }


def _encoded(proto: Any) -> str:
    return base64.b64encode(proto.SerializeToString()).decode("ascii")
