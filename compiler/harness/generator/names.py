"""Names for values and nodes, as exporters give them and as nobody should."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .draws import Draws

STYLES = ("plain", "path", "number", "clash", "unicode")
_STEMS: tuple[str, ...] = (
    "x",
    "w",
    "w_t",
    "x_1",
    "x_2",
    "y",
    "w_folded",
    "bias_scaled",
    "scale",
    "zero",
    "value",
)
_STEMS += ("Add_1", "MatMul", "x_quantized", "w_quantized", "conv_bias", "Conv", "node", "0")
_ODD = ("größe", "重み", "a b", "π/2", "tab\there", 'quo"te', "back\\slash", "..", "%s {0}", "ß:0")


class Names:
    """Unique names of values and, as ONNX allows, any names of nodes, in one style."""

    def __init__(self, draws: Draws) -> None:
        self._draws = draws
        self.style = draws.weighted([(4, "plain"), (3, "path"), (1, "number"), (3, "clash"),
                                     (1, "unicode")])  # fmt: skip
        self._unnamed_nodes = draws.chance(25)
        self._taken: set[str] = set()
        self._nodes: set[str] = set()
        self._given: list[str] = []
        self._count = 0

    def value(self, hint: str) -> str:
        """A name that no other value has."""
        self._count += 1
        name = self._styled(hint)
        while name in self._taken:
            self._count += 1
            name = f"{name}_{self._count % 3 + 1}"
        self._taken.add(name)
        self._given.append(name)
        return name

    def node(self, op_type: str) -> str:
        """A name that no other node has, but perhaps a value; often none."""
        if self._unnamed_nodes:
            return ""
        self._count += 1
        name = f"{self.scope()}{op_type}_{self._count}"
        if self.style == "clash" and self._given:
            name = self._draws.pick([op_type, self._given[-1], self._given[0], ""])
        while name in self._nodes:
            name = f"{name}_{self._count % 3 + 1}"
        if name:
            self._nodes.add(name)
        return name

    def scope(self) -> str:
        """The path of a module in front of a name, as exporters write it."""
        if self.style != "path":
            return ""
        return f"/encoder/layer.{self._count // 12}/{('attn', 'mlp', 'proj')[self._count % 3]}/"

    def siblings(self, makers: Sequence[Callable[[], None]]) -> None:
        """Run all; what they name may have the same names, since none sees the others'."""
        before, everything = set(self._taken), set(self._taken)
        for make in makers:
            make()
            everything |= self._taken
            self._taken = set(before) if self._draws.chance(60) else set(everything)
        self._taken = everything

    def _styled(self, hint: str) -> str:
        if self.style == "number":
            return str(self._count)
        if self.style == "clash":
            return self._draws.pick(_STEMS)
        if self.style == "unicode":
            return self._draws.pick(_ODD)
        if self.style == "path":
            return f"{self.scope()}{hint}_output_{self._count}"
        return f"{hint}{self._count}"
