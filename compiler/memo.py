"""Results of pure functions, kept for the next build of the same pipeline."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np


@dataclass
class Memory:
    """Keeps results of at most ``limit`` bytes of arrays together; the oldest make room."""

    limit: int
    _kept: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict)
    _bytes: int = 0

    def recall(self, key: Hashable, function: Callable[[], Any]) -> Any:
        """What the function gave for this key, or gives now."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        result = function()
        self._kept[key] = result
        self._bytes += array_bytes(result)
        while self._bytes > self.limit:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= array_bytes(dropped)
        return result


def array_bytes(value: Any) -> int:
    """Of the arrays in a value, in a dataclass field by field."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if is_dataclass(value):
        return sum(array_bytes(getattr(value, item.name)) for item in fields(value))
    return 0
