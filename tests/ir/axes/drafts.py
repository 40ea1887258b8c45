"""Random small graphs of what axis groups know, and of what they have to refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray
SIZES = (4, 6, 8, 12, 24)
POINTWISE = ("Sigmoid", "Cos", "Gelu", "Relu", "Tanh", "HardSwish", "Softplus")


@dataclass
class Draft:
    """Lines of a graph in ONNX's text form and its weights, both drawn from one seed."""

    seed: int
    lines: list[str] = field(default_factory=list)
    tensors: dict[str, Array] = field(default_factory=dict)
    values: list[tuple[str, int]] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def name(self, hint: str = "v") -> str:
        self.count += 1
        return f"{hint}{self.count}"

    def op(self, call: str, *, hint: str = "v") -> str:
        """Append ``name = call``."""
        name = self.name(hint)
        self.lines.append(f"{name} = {call}")
        return name

    def weight(self, *shape: int) -> str:
        name = self.name("w")
        scale = 1.0 / np.sqrt(max(shape[0] if len(shape) == 2 else np.prod(shape[1:]), 1))
        self.tensors[name] = (self.random.normal(size=shape) * scale).astype(np.float32)
        return name

    def ints(self, *numbers: int) -> str:
        name = self.name("i")
        self.tensors[name] = np.array(numbers, np.int64)
        return name

    def pick(self) -> tuple[str, int]:
        wide = [value for value in self.values if value[1] > 1]
        return wide[int(self.random.integers(len(wide)))]

    def choice(self, options: list[Callable[[], None]]) -> None:
        options[int(self.random.integers(len(options)))]()

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def integer(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high))

    def size(self) -> int:
        return int(self.random.choice(SIZES))

    def unread(self) -> list[tuple[str, int]]:
        text = "\n".join(self.lines)
        return [v for v in self.values if f"({v[0]}," not in text and f" {v[0]}," not in text
                and f"({v[0]})" not in text and f" {v[0]})" not in text]  # fmt: skip

    def partner(self, size: int) -> str | None:
        """Another value of the same size."""
        fitting = [n for n, s in self.values if s == size]
        return str(self.random.choice(fitting)) if fitting else None


class Tokens(Draft):
    """Graphs over [batch, length, features]."""

    def draw(self, steps: int) -> tuple[str, dict[str, Array]]:
        """The text and the weights."""
        self.values.append(("x", 8))
        self.linear()
        for _ in range(steps):
            self.choice(
                [
                    *(self.linear, self.linear, self.pointwise, self.pointwise, self.scaled),
                    *(self.added, self.added, self.multiplied, self.joined, self.parted),
                    *(self.sliced, self.gathered, self.heads, self.heads, self.padded),
                    *(self.attention, self.attention, self.normed, self.tied, self.flattened),
                    *(self.averaged, self.chosen, self.shared, self.gated, self.gated),
                    *(self.embedded, self.squeezed),
                ]
            )
        return self.finished(), self.tensors

    def finished(self) -> str:
        total = ""
        for name, size in self.unread():
            part = self.op(f"MatMul({name}, {self.weight(size, 5)})")
            total = part if not total else self.op(f"Add({total}, {part})")
        self.lines.append(f"y = Identity({total})")
        shape = "b, s" if self.seed % 2 else "2, 3"
        body = "\n".join(self.lines)
        head = '<ir_version: 10, opset_import: ["": 20]>'
        return f"{head} g (float[{shape}, 8] x) => (float[{shape}, 5] y) {{ {body} }}"

    def keep(self, name: str, size: int) -> None:
        self.values.append((name, size))

    def linear(self) -> None:
        (x, size), out = self.pick(), self.size()
        y = self.op(f"MatMul({x}, {self.weight(size, out)})")
        if self.chance(0.6):
            y = self.op(f"Add({y}, {self.weight(out)})")
        self.keep(y, out)

    def pointwise(self) -> None:
        x, size = self.pick()
        self.keep(self.op(f"{self.random.choice(POINTWISE)}({x})"), size)

    def scaled(self) -> None:
        x, size = self.pick()
        shape = [(size,), (1,), (1, 1, size), ()][self.integer(0, 4)]
        pair = [x, self.weight(*shape)]
        self.random.shuffle(pair)
        self.keep(self.op(f"Mul({pair[0]}, {pair[1]})"), size)

    def shared(self) -> None:
        """A vector that stands somewhere else, too."""
        x, size = self.pick()
        vectors = [n for n, t in self.tensors.items() if t.shape == (size,) and n[0] == "w"]
        if vectors:
            self.keep(self.op(f"Add({x}, {self.random.choice(vectors)})"), size)

    def added(self) -> None:
        x, size = self.pick()
        self.keep(self.op(f"Add({x}, {self.partner(size)})"), size)

    def multiplied(self) -> None:
        x, size = self.pick()
        self.keep(self.op(f"Mul({x}, {self.partner(size)})"), size)

    def chosen(self) -> None:
        x, size = self.pick()
        mask = self.op(f"Greater({x}, {self.weight()})")
        self.keep(self.op(f"Where({mask}, {self.partner(size)}, {x})"), size)

    def joined(self) -> None:
        (x, m), (y, n) = self.pick(), self.pick()
        if m + n <= 48:
            self.keep(self.op(f"Concat <axis = -1> ({x}, {y})"), m + n)

    def parted(self) -> None:
        x, size = self.pick()
        first = size // 2 if self.chance(0.5) else self.integer(1, size)
        a, b = self.name(), self.name()
        sizes = (
            "" if first * 2 == size and self.chance(0.5) else f", {self.ints(first, size - first)}"
        )
        axis = "axis = -1" + ("" if sizes else ", num_outputs = 2")
        self.lines.append(f"{a}, {b} = Split <{axis}> ({x}{sizes})")
        self.keep(a, first)
        self.keep(b, size - first)

    def sliced(self) -> None:
        x, size = self.pick()
        start = self.integer(0, size - 1)
        end = self.integer(start + 1, size + 1)
        ends = self.ints(end if end < size else 1 << 60)
        start_ = self.ints(start - size if self.chance(0.3) else start)
        self.keep(self.op(f"Slice({x}, {start_}, {ends}, {self.ints(-1)})"), end - start)

    def gathered(self) -> None:
        x, size = self.pick()
        count = self.integer(2, size + 1) if size > 2 else 2
        indices = self.random.permutation(size)[:count]
        if self.chance(0.3):
            indices = self.random.integers(-size, size, count)
        self.keep(self.op(f"Gather <axis = 2> ({x}, {self.ints(*indices.tolist())})"), len(indices))

    def padded(self) -> None:
        x, size = self.pick()
        a, b = self.integer(0, 3), self.integer(0, 3)
        pads = self.ints(0, 0, a, 0, 0, b)
        self.keep(self.op(f"Pad({x}, {pads}, {self.weight()})"), size + a + b)

    def tied(self) -> None:
        """A weight that is applied somewhere else, too, perhaps transposed."""
        x, size = self.pick()
        fitting = [
            n for n, t in self.tensors.items() if n[0] == "w" and t.ndim == 2 and size in t.shape
        ]
        if fitting:
            weight = str(self.random.choice(fitting))
            rows, columns = self.tensors[weight].shape
            read = weight if rows == size else self.op(f"Transpose({weight})")
            self.keep(self.op(f"MatMul({x}, {read})"), columns if rows == size else rows)

    def normed(self) -> None:
        x, size = self.pick()
        kind = self.integer(0, 3)
        if kind == 0:
            call = f"LayerNormalization({x}, {self.weight(size)}, {self.weight(size)})"
        else:
            call = f"Softmax({x})" if kind == 1 else f"Softmax <axis = 1> ({x})"
        self.keep(self.op(call), size)

    def averaged(self) -> None:
        x, size = self.pick()
        mean = self.op(f"ReduceMean({x}, {self.ints(1)})")
        self.keep(self.op(f"Sub({x}, {mean})"), size)

    def gated(self) -> None:
        """SwiGLU: two layers, or the halves of one, multiplied; and a layer behind."""
        (x, size), width = self.pick(), self.integer(2, 9)
        if self.chance(0.5):
            gate, up = (self.op(f"MatMul({x}, {self.weight(size, width)})") for _ in range(2))
        else:
            both = self.op(f"MatMul({x}, {self.weight(size, 2 * width)})")
            gate, up = self.name(), self.name()
            self.lines.append(f"{gate}, {up} = Split <axis = -1, num_outputs = 2> ({both})")
        opened = self.op(f"Mul({gate}, {self.op(f'Sigmoid({gate})')})")
        hidden = self.op(f"Mul({opened}, {up})")
        out = self.size()
        self.keep(self.op(f"MatMul({hidden}, {self.weight(width, out)})"), out)

    def embedded(self) -> None:
        """A row of a table for every token, added."""
        x, size = self.pick()
        ids = self.ints(*self.random.integers(0, 7, 3).tolist())
        rows = self.op(f"Gather({self.weight(7, size)}, {ids})")
        self.keep(self.op(f"Add({x}, {rows})"), size)

    def squeezed(self) -> None:
        """An axis of size 1 comes, and goes."""
        x, size = self.pick()
        place = self.ints(self.integer(0, 4))
        wide = self.op(f"Unsqueeze({x}, {place})")
        self.keep(self.op(f"Squeeze({self.op(f'Relu({wide})')}, {place})"), size)

    def split_size(self, size: int) -> tuple[int, int]:
        divisors = [d for d in range(1, size + 1) if size % d == 0]
        outer = int(self.random.choice(divisors))
        return outer, size // outer

    def target(self, x: str, *tail: int) -> str:
        """A constant target, or one computed from the shape of a value."""
        if self.chance(0.5):
            return self.ints(0, -1, *tail) if self.chance(0.5) else self.ints(0, 0, *tail)
        shape = self.op(f"Shape({x})")
        front = self.op(f"Slice({shape}, {self.ints(0)}, {self.ints(2)}, {self.ints(0)})")
        parts = ", ".join(self.ints(n) for n in tail)
        return self.op(f"Concat <axis = 0> ({front}, {parts})")

    def heads(self) -> None:
        """As [batch, length, outer, inner], something there, and back in one order or the other."""
        x, size = self.pick()
        outer, inner = self.split_size(size)
        y = self.op(f"Reshape({x}, {self.target(x, outer, inner)})")
        kind = self.integer(0, 6)
        if kind == 0:
            y = self.op(f"Softmax <axis = {self.integer(2, 4)}> ({y})")
        elif kind == 1:
            shape = (outer, 1) if self.chance(0.5) else (inner,)
            y = self.op(f"Mul({y}, {self.weight(*shape)})")
        elif kind == 2:
            y = self.op(f"LayerNormalization({y}, {self.weight(inner)})")
        elif kind == 3:
            y = self.op(f"Transpose <perm = [0, 1, 3, 2]> ({y})")
        elif kind == 4 and size % 4 == 0:
            y = self.op(f"Reshape({y}, {self.target(y, 2, size // 4, 2)})")
        self.keep(self.op(f"Reshape({y}, {self.target(y, size)})"), size)

    def flattened(self) -> None:
        """All tokens in one axis, a Gemm, and back."""
        x, size = self.pick()
        out = self.size()
        flat = self.op(f"Reshape({x}, {self.ints(-1, size)})")
        if self.chance(0.5):
            y = self.op(f"Gemm <transB = 1> ({flat}, {self.weight(out, size)}, {self.weight(out)})")
        else:
            y = self.op(f"Gemm <alpha = 0.5> ({flat}, {self.weight(size, out)})")
        shape = self.op(f"Shape <end = 2> ({x})")
        target = self.op(f"Concat <axis = 0> ({shape}, {self.ints(out)})")
        self.keep(self.op(f"Reshape({y}, {target})"), out)

    def attention(self) -> None:
        """Grouped or not, keys by the batch detour of exporters or directly, packed or not."""
        (x, size), heads, width = self.pick(), self.integer(1, 5), self.integer(2, 4)
        share = int(self.random.choice([1, 1, 2])) if heads > 1 else 1
        q, k, v = self.projections(x, size, heads * share, heads, width)
        q, k, v = (self.apart(n, c, width) for n, c in ((q, heads * share), (k, heads), (v, heads)))
        if width % 2 == 0 and self.chance(0.5):
            q, k = (self.rotated(n, width) for n in (q, k))
        if share > 1:
            k, v = (self.repeated(n, heads, share, width) for n in (k, v))
        scores = self.op(f"MatMul({q}, {self.turned(k, heads * share, width)})")
        shape = (heads * share, 1, 1)
        scores = self.op(f"Mul({scores}, {self.weight(*shape)})") if self.chance(0.3) else scores
        scores = self.op(f"Add({scores}, {self.biases(heads * share)})")
        mixed = self.op(f"MatMul({self.op(f'Softmax({scores})')}, {v})")
        back = self.op(f"Transpose <perm = [0, 2, 1, 3]> ({mixed})")
        total = heads * share * width
        self.keep(self.op(f"Reshape({back}, {self.target(back, total)})"), total)

    def projections(
        self, x: str, size: int, queries: int, heads: int, width: int
    ) -> tuple[str, str, str]:
        sizes = (queries * width, heads * width, heads * width)
        if self.chance(0.5):
            q, k, v = (self.op(f"MatMul({x}, {self.weight(size, n)})") for n in sizes)
            return q, k, v
        packed = self.op(f"MatMul({x}, {self.weight(size, sum(sizes))})")
        packed = self.op(f"Add({packed}, {self.weight(sum(sizes))})")
        names = self.name("q"), self.name("k"), self.name("v")
        self.lines.append(f"{', '.join(names)} = Split <axis = 2> ({packed}, {self.ints(*sizes)})")
        return names

    def apart(self, x: str, heads: int, width: int) -> str:
        y = self.op(f"Reshape({x}, {self.target(x, heads, width)})")
        return self.op(f"Transpose <perm = [0, 2, 1, 3]> ({y})")

    def rotated(self, x: str, width: int) -> str:
        """Rotary positions: x * cos + (-second half, first half) * sin."""
        half, end = self.ints(width // 2), self.ints(1 << 60)
        first = self.op(f"Slice({x}, {self.ints(0)}, {half}, {self.ints(3)})")
        second = self.op(f"Slice({x}, {half}, {end}, {self.ints(3)})")
        turned = self.op(f"Concat <axis = -1> ({self.op(f'Neg({second})')}, {first})")
        parts = (self.op(f"Mul({n}, {self.weight(3, width)})") for n in (x, turned))
        return self.op(f"Add({', '.join(parts)})")

    def biases(self, heads: int) -> str:
        """A table of relative positions, a column a head: [heads, 3, 3]; or nothing to speak of."""
        if self.chance(0.6):
            return self.weight()
        places = self.name("i")
        self.tensors[places] = self.random.integers(0, 5, (3, 3))
        rows = self.op(f"Gather({self.weight(5, heads)}, {places})")
        return self.op(f"Transpose <perm = [2, 0, 1]> ({rows})")

    def repeated(self, x: str, heads: int, share: int, width: int) -> str:
        y = self.op(f"Unsqueeze({x}, {self.ints(2)})")
        y = self.op(f"Expand({y}, {self.ints(1, 1, share, 1, 1)})")
        shape = self.op(f"Shape({x})")
        ends = (
            self.op(f"Slice({shape}, {self.ints(i)}, {self.ints(i + 1)}, {self.ints(0)})")
            for i in (0, 2)
        )
        first, length = ends
        parts = f"{first}, {self.ints(heads * share)}, {length}, {self.ints(width)}"
        return self.op(f"Reshape({y}, {self.op(f'Concat <axis = 0> ({parts})')})")

    def turned(self, k: str, heads: int, width: int) -> str:
        """The keys transposed, as some exporters do through a batch of heads."""
        if self.chance(0.5):
            return self.op(f"Transpose <perm = [0, 1, 3, 2]> ({k})")
        shape = self.op(f"Shape({k})")

        def part(start: int, end: int) -> str:
            return self.op(f"Slice({shape}, {self.ints(start)}, {self.ints(end)}, {self.ints(0)})")

        front, length, last = part(0, 2), part(2, 3), part(3, 4)
        three = self.op(f"Concat <axis = 0> ({self.ints(-1)}, {length}, {last})")
        flat = self.op(f"Reshape({k}, {three})")
        turned = self.op(f"Transpose <perm = [0, 2, 1]> ({flat})")
        four = self.op(f"Concat <axis = 0> ({front}, {last}, {length})")
        return self.op(f"Reshape({turned}, {four})")


class Images(Draft):
    """Graphs over [samples, channels, 4, 4]."""

    def draw(self, steps: int) -> tuple[str, dict[str, Array]]:
        """The text and the weights."""
        self.values.append(("x", 3))
        self.conv()
        for _ in range(steps):
            self.choice(
                [
                    *(self.conv, self.conv, self.conv, self.grouped, self.grouped, self.depthwise),
                    *(self.normed, self.pointwise, self.added, self.added, self.joined),
                    *(self.shuffled, self.padded, self.parted, self.pooled, self.squeezed),
                    *(self.transposed, self.resized, self.tokens, self.instance, self.turned),
                    *(self.sliced, self.gathered, self.halved, self.gated, self.grouped_norm),
                    *(self.excited, self.flattened, self.doubled, self.branched),
                ]
            )
        return self.finished(), self.tensors

    def finished(self) -> str:
        total = ""
        for name, size in self.unread():
            if self.chance(0.5):
                flat = self.op(f"Flatten({name})")
                size = size * 16
            else:
                flat = self.op(f"Flatten({self.op(f'GlobalAveragePool({name})')})")
            bias = self.weight(5)
            part = self.op(f"Gemm <transB = 1> ({flat}, {self.weight(5, size)}, {bias})")
            total = part if not total else self.op(f"Add({total}, {part})")
        self.lines.append(f"y = Identity({total})")
        samples = "n" if self.seed % 2 else "2"
        body = "\n".join(self.lines)
        head = '<ir_version: 10, opset_import: ["": 20]>'
        return f"{head} g (float[{samples}, 3, 4, 4] x) => (float[{samples}, 5] y) {{ {body} }}"

    def keep(self, name: str, size: int) -> None:
        self.values.append((name, size))

    def conv(self) -> None:
        (x, size), out = self.pick(), self.size()
        bias = f", {self.weight(out)}" if self.chance(0.6) else ""
        if self.chance(0.5):
            call = f"Conv <pads = [1, 1, 1, 1]> ({x}, {self.weight(out, size, 3, 3)}{bias})"
        else:
            call = f"Conv({x}, {self.weight(out, size, 1, 1)}{bias})"
        self.keep(self.op(call), out)

    def transposed(self) -> None:
        (x, size), out = self.pick(), self.size()
        groups = 2 if size % 2 == 0 and self.chance(0.4) else 1
        weight = self.weight(size, out // groups, 1, 1)
        self.keep(self.op(f"ConvTranspose <group = {groups}> ({x}, {weight})"), out)

    def grouped(self) -> None:
        x, size = self.pick()
        divisors = [d for d in (2, 3, 4) if size % d == 0]
        if divisors and size > 1:
            groups = int(self.random.choice(divisors))
            out = groups * self.integer(1, 4)
            weight, bias = self.weight(out, size // groups, 1, 1), self.weight(out)
            self.keep(self.op(f"Conv <group = {groups}> ({x}, {weight}, {bias})"), out)

    def depthwise(self) -> None:
        x, size = self.pick()
        times = self.integer(1, 3) if size <= 24 else 1
        weight, bias = self.weight(size * times, 1, 3, 3), self.weight(size * times)
        call = f"Conv <group = {size}, pads = [1, 1, 1, 1]> ({x}, {weight}, {bias})"
        self.keep(self.op(call), size * times)

    def normed(self) -> None:
        x, size = self.pick()
        scale, bias, mean = (self.weight(size) for _ in range(3))
        spread = self.weight(size)
        self.tensors[spread] = np.abs(self.tensors[spread]) + 0.5
        self.keep(self.op(f"BatchNormalization({x}, {scale}, {bias}, {mean}, {spread})"), size)

    def instance(self) -> None:
        x, size = self.pick()
        if self.chance(0.5):
            call = f"InstanceNormalization({x}, {self.weight(size)}, {self.weight(size)})"
        else:
            call = f"LRN <size = 3> ({x})"
        self.keep(self.op(call), size)

    def pointwise(self) -> None:
        x, size = self.pick()
        if self.chance(0.3):
            self.keep(self.op(f"PRelu({x}, {self.weight(size, 1, 1)})"), size)
        else:
            self.keep(self.op(f"{self.random.choice(POINTWISE)}({x})"), size)

    def added(self) -> None:
        x, size = self.pick()
        self.keep(self.op(f"Add({x}, {self.partner(size)})"), size)

    def joined(self) -> None:
        (x, m), (y, n) = self.pick(), self.pick()
        if m + n <= 48:
            self.keep(self.op(f"Concat <axis = 1> ({x}, {y})"), m + n)

    def parted(self) -> None:
        x, size = self.pick()
        first = self.integer(1, size)
        a, b = self.name(), self.name()
        sizes = self.ints(first, size - first)
        self.lines.append(f"{a}, {b} = Split <axis = 1> ({x}, {sizes})")
        self.keep(a, first)
        self.keep(b, size - first)

    def padded(self) -> None:
        """Channels in front and behind, as shortcuts of residual networks get them."""
        (x, size), wanted = self.pick(), self.size()
        if wanted > size:
            front = self.integer(0, wanted - size + 1)
            pads = self.ints(0, front, 0, 0, 0, wanted - size - front, 0, 0)
            self.keep(self.op(f"Pad({x}, {pads})"), wanted)

    def pooled(self) -> None:
        x, size = self.pick()
        pool = "MaxPool" if self.chance(0.5) else "AveragePool"
        call = f"{pool} <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> ({x})"
        self.keep(self.op(call), size)

    def squeezed(self) -> None:
        """Squeeze and excitation."""
        x, size = self.pick()
        mean = self.op(f"GlobalAveragePool({x})")
        narrow = self.op(f"Relu({self.op(f'Conv({mean}, {self.weight(4, size, 1, 1)})')})")
        wide = self.op(f"Conv({narrow}, {self.weight(size, 4, 1, 1)}, {self.weight(size)})")
        self.keep(self.op(f"Mul({x}, {self.op(f'Sigmoid({wide})')})"), size)

    def shuffled(self) -> None:
        x, size = self.pick()
        if size % 2 == 0:
            y = self.op(f"Reshape({x}, {self.ints(0, 2, size // 2, 4, 4)})")
            y = self.op(f"Transpose <perm = [0, 2, 1, 3, 4]> ({y})")
            self.keep(self.op(f"Reshape({y}, {self.ints(0, -1, 4, 4)})"), size)

    def resized(self) -> None:
        x, size = self.pick()
        scales = self.name("w")
        self.tensors[scales] = np.array([1, 1, 2, 2], np.float32)
        up = self.op(f'Resize <mode = "nearest"> ({x}, , {scales})')
        self.keep(self.op(f"MaxPool <kernel_shape = [2, 2], strides = [2, 2]> ({up})"), size)

    def tokens(self) -> None:
        """Pixels as tokens, a linear layer, and back."""
        (x, size), out = self.pick(), self.size()
        flat = self.op(f"Reshape({x}, {self.ints(0, size, 16)})")
        rows = self.op(f"Transpose <perm = [0, 2, 1]> ({flat})")
        y = self.op(f"MatMul({rows}, {self.weight(size, out)})")
        back = self.op(f"Transpose <perm = [0, 2, 1]> ({y})")
        self.keep(self.op(f"Reshape({back}, {self.ints(0, out, 4, 4)})"), out)

    def turned(self) -> None:
        """Channels last, a scale there, and back."""
        x, size = self.pick()
        last = self.op(f"Transpose <perm = [0, 2, 3, 1]> ({x})")
        y = self.op(f"Mul({last}, {self.weight(size)})")
        self.keep(self.op(f"Transpose <perm = [0, 3, 1, 2]> ({y})"), size)

    def sliced(self) -> None:
        x, size = self.pick()
        start = self.integer(0, size - 1)
        end = self.integer(start + 1, size + 1)
        self.keep(
            self.op(f"Slice({x}, {self.ints(start)}, {self.ints(end)}, {self.ints(1)})"),
            end - start,
        )

    def gathered(self) -> None:
        x, size = self.pick()
        indices = self.random.permutation(size)[: self.integer(2, size + 1) if size > 2 else 2]
        self.keep(self.op(f"Gather <axis = 1> ({x}, {self.ints(*indices.tolist())})"), len(indices))

    def channels(self, x: str, index: int) -> str:
        """A size of a value, as graphs compute it."""
        return self.op(f"Gather({self.op(f'Shape({x})')}, {self.ints(index)})")

    def halved(self) -> None:
        """One half as it is, the other through a layer, joined and shuffled; sizes computed."""
        x, size = self.pick()
        if size % 2 or size > 24:
            return
        half = self.op(f"Div({self.channels(x, 1)}, {self.ints(2)})")
        whole, zero = self.op(f"Mul({half}, {self.ints(2)})"), self.ints(0)
        left = self.op(f"Slice({x}, {zero}, {half}, {self.ints(1)})")
        right = self.op(f"Slice({x}, {half}, {whole}, {self.ints(1)})")
        made = self.op(f"Conv({right}, {self.weight(size // 2, size // 2, 1, 1)})")
        joined = self.op(f"Concat <axis = 1> ({left}, {made})")
        self.keep(self.mixed(joined, 2), size)

    def mixed(self, x: str, groups: int) -> str:
        """A shuffle by computed sizes."""
        sizes = [self.channels(x, i) for i in range(4)]
        part = self.op(f"Div({sizes[1]}, {self.ints(groups)})")
        five = ", ".join((sizes[0], self.ints(groups), part, *sizes[2:]))
        four = ", ".join(sizes)
        y = self.op(f"Reshape({x}, {self.op(f'Concat <axis = 0> ({five})')})")
        y = self.op(f"Transpose <perm = [0, 2, 1, 3, 4]> ({y})")
        return self.op(f"Reshape({y}, {self.op(f'Concat <axis = 0> ({four})')})")

    def gated(self) -> None:
        """A gated linear unit: one half opens the other."""
        x, size = self.pick()
        if size % 2 == 0:
            a, b = self.name(), self.name()
            self.lines.append(f"{a}, {b} = Split <axis = 1, num_outputs = 2> ({x})")
            self.keep(self.op(f"Mul({a}, {self.op(f'Sigmoid({b})')})"), size // 2)

    def grouped_norm(self) -> None:
        """A norm over groups of channels, as exporters spell it."""
        x, size = self.pick()
        groups = int(self.random.choice([d for d in range(1, size + 1) if size % d == 0]))
        flat = self.op(f"Reshape({x}, {self.ints(0, groups, -1)})")
        normed = f"InstanceNormalization({flat}, {self.weight(groups)}, {self.weight(groups)})"
        back = self.op(f"Shape({x})") if self.chance(0.5) else self.ints(0, size, 4, 4)
        y = self.op(f"Reshape({self.op(normed)}, {back})")
        self.keep(self.op(f"Mul({y}, {self.weight(size, 1, 1)})"), size)

    def excited(self) -> None:
        """Squeeze and excitation by linear layers."""
        x, size = self.pick()
        keeps = self.chance(0.5)
        mean = self.op(f"ReduceMean <keepdims = {int(keeps)}> ({x}, {self.ints(2, 3)})")
        mean = self.op(f"Flatten({mean})") if keeps else mean
        narrow = self.op(f"Relu({self.op(f'MatMul({mean}, {self.weight(size, 4)})')})")
        wide = self.op(f"Gemm({narrow}, {self.weight(4, size)}, {self.weight(size)})")
        if self.chance(0.5):
            gate = self.op(f"Unsqueeze({wide}, {self.ints(2, 3)})")
        else:
            gate = self.op(f"Reshape({wide}, {self.ints(0, size, 1, 1)})")
        self.keep(self.op(f"Mul({x}, {self.op(f'Sigmoid({gate})')})"), size)

    def flattened(self) -> None:
        """All of an image into a linear layer, which moves the channels of another."""
        (x, size), (y, wide) = self.pick(), self.pick()
        flat = self.op(f"Flatten({x})")
        made = self.op(f"Gemm({flat}, {self.weight(size * 16, wide)})")
        moved = self.op(f"Unsqueeze({made}, {self.ints(2, 3)})")
        self.keep(self.op(f"Add({y}, {moved})"), wide)

    def doubled(self) -> None:
        """A transposed convolution, depthwise, grouped or plain, and back to the size."""
        x, size = self.pick()
        groups = int(self.random.choice([d for d in range(1, size + 1) if size % d == 0]))
        each = self.integer(1, 3)
        weight, bias = self.weight(size, each, 2, 2), self.weight(groups * each)
        text = f"<group = {groups}, strides = [2, 2]> ({x}, {weight}, {bias})"
        up = self.op(f"ConvTranspose {text}")
        down = self.op(f"AveragePool <kernel_shape = [2, 2], strides = [2, 2]> ({up})")
        self.keep(down, groups * each)

    def branched(self) -> None:
        """Branches of several sizes, added up."""
        (x, size), out = self.pick(), self.size()
        wide = f"Conv <pads = [1, 1, 1, 1]> ({x}, {self.weight(out, size, 3, 3)})"
        y = self.op(
            f"Add({self.op(wide)}, {self.op(f'Conv({x}, {self.weight(out, size, 1, 1)})')})"
        )
        self.keep(self.op(f"Add({y}, {x})") if out == size else y, out)
