"""ONNX Runtime's profile of a session, read: milliseconds of each node that it executed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Event = Mapping[str, Any]
_SUFFIX = "_kernel_time"
_HOLDERS = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Operators whose time holds that of the nodes in their bodies."""


@dataclass(frozen=True)
class NodeTime:
    """One executed node. index: its number in the runtime's graph. ms: of one run of the model:
    median over rounds, mean over feeds; what runs in its bodies is left out."""

    name: str
    op: str
    index: int
    ms: float


@dataclass(frozen=True)
class Trace:
    """nodes: in the order in which they ran first. ms: of one run as a whole. rounds: measured."""

    nodes: tuple[NodeTime, ...]
    ms: float
    rounds: int

    @property
    def nodes_ms(self) -> float:
        """The sum over nodes: what of a run was spent in kernels."""
        return sum(node.ms for node in self.nodes)


def read_trace(path: Path, *, skip: int, feeds: int) -> Trace:
    """A profile of ``skip`` warming runs and then whole rounds over so many feeds.

    Milliseconds, from the profiler's microseconds. The profiler itself takes a few microseconds a
    node, which are in ``ms`` but not in those of nodes.
    """
    runs = list(_runs(json.loads(path.read_text(encoding="utf8", errors="replace"))))[skip:]
    runs = runs[: len(runs) // feeds * feeds]
    rounds = len(runs) // feeds
    if not rounds:
        return Trace((), 0.0, 0)
    keys = dict.fromkeys(key for times, _ in runs for key in times)
    table = np.array([[times.get(key, 0.0) for times, _ in runs] for key in keys])
    each = _typical(table.reshape(len(keys), rounds, feeds))
    whole = _typical(np.array([[total for _, total in runs]]).reshape(1, rounds, feeds))
    nodes = (NodeTime(*key, float(ms)) for key, ms in zip(keys, each, strict=True))
    return Trace(tuple(nodes), float(whole[0]), rounds)


Key = tuple[str, str, int]
"""Name, operator, index."""


def _typical(times: np.ndarray) -> np.ndarray:
    """Median over rounds and mean over feeds: [n, rounds, feeds] -> [n]."""
    return np.asarray(np.median(times, axis=1).mean(axis=1))


def _runs(events: Iterable[Event]) -> Iterator[tuple[dict[Key, float], float]]:
    """Milliseconds by node and as a whole, run by run: a run's own event comes last."""
    held: list[Event] = []
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith(_SUFFIX):
            held.append(event)
        elif event.get("name") == "model_run":
            yield _of_one_run(held), float(event["dur"]) / 1e3
            held = []


def _of_one_run(events: list[Event]) -> dict[Key, float]:
    found: defaultdict[Key, float] = defaultdict(float)
    nested = any(event["args"].get("op_name") in _HOLDERS for event in events)
    inner = _inside(events) if nested else {}
    for event in events:
        about = event["args"]
        key = (
            str(event["name"]).removesuffix(_SUFFIX),
            str(about.get("op_name", "")),
            int(about.get("node_index", -1)),
        )
        found[key] += max(0.0, float(event["dur"]) - inner.get(id(event), 0.0)) / 1e3
    return dict(found)


def _inside(events: list[Event]) -> dict[int, float]:
    """Microseconds of the events directly inside of each, by the event's identity."""
    spent: defaultdict[int, float] = defaultdict(float)
    open_: list[Event] = []
    for event in sorted(events, key=lambda e: (float(e["ts"]), -float(e["dur"]))):
        while open_ and float(open_[-1]["ts"]) + float(open_[-1]["dur"]) <= float(event["ts"]):
            open_.pop()
        if open_:
            spent[id(open_[-1])] += float(event["dur"])
        open_.append(event)
    return spent
