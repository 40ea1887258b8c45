"""Convolutional networks: a sample of what ``benchmarks/breadth_cnns.py`` holds all of them to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from benchmarks.breadth_cnns import light_net, light_paths, torch_net
from benchmarks.cnns.cutting import tried
from benchmarks.cnns.oracle import Coupling, coupling, objections, separable
from planish.ir.axes.find import find_axis_groups
from planish.ir.axes.groups import AxisGroup, Member
from planish.ir.sites import find_sites

if TYPE_CHECKING:
    import onnx_ir as ir

NEWEST, NEW, OLD = (23, False), (20, False), (18, True)
"""Opset, and whether the older exporter writes it, which takes a tenth of the time."""


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("ResNet, bottlenecks", OLD),
        ("ResNeXt", OLD),
        ("DenseNet", OLD),
        ("MobileNetV3", OLD),
        ("GroupNorm, 4 groups", OLD),
        ("GroupNorm, 4 groups", NEWEST),
        ("GroupNorm, 1 group", OLD),
        ("RepVGG", OLD),
        ("ShuffleNet", OLD),
        ("ShuffleNet v2", OLD),
        ("ShuffleNet v2", NEW),
        ("U-Net, ConvTranspose", OLD),
        ("YOLO-like", OLD),
        ("feature pyramid", OLD),
        ("gated 1-D", OLD),
        ("ConvNeXt", OLD),
        ("super-resolution", OLD),
    ],
)
def test_groups_and_cuts(name: str, form: tuple[int, bool]) -> None:
    from benchmarks.cnns.table import NETS

    net = next(net for net in NETS if net.name == name)
    found = torch_net(net, [form], pruned=False)
    assert found.wrong == []
    assert found.as_expected == found.forms == 2
    assert found.judged == 2 * sum(map(len, net.cuttable.values()))
    assert found.cuts == found.judged + 2


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_classic_networks_with_random_weights(name: str) -> None:
    path = next(path for path in light_paths() if path.stem == f"light_{name}")
    found = light_net(path, each=False)
    assert found.wrong == []
    assert (found.as_expected, found.cuts) == (2, 2)


# -- what these tests hold groups against would notice ------------------------------------


@pytest.fixture(scope="module")
def split() -> Callable[[], ir.Model]:
    """A fresh copy of a network with splits, joins and residuals."""
    pytest.importorskip("torch")
    from benchmarks.cnns.export import exported, randomised
    from benchmarks.cnns.mixed import Yolo

    model = exported(randomised(Yolo()), (3, 16, 16), 18, traced=True)
    return lambda: model.clone()


def groups_of(model: ir.Model) -> dict[str, AxisGroup]:
    return dict(find_axis_groups(model, find_sites(model)))


def with_members(group: AxisGroup, change: Callable[[Member], Member | None]) -> AxisGroup:
    members = [change(member) for member in group.members]
    return dataclasses.replace(group, members=tuple(m for m in members if m is not None))


def rows(group: AxisGroup, order: Any) -> AxisGroup:
    """Units in another order, or some of them put together."""
    return with_members(group, lambda m: dataclasses.replace(m, index=m.index[order]))


@pytest.mark.torch
def test_changed_channels_object_to_wrong_groups(split: Callable[[], ir.Model]) -> None:
    model = split()
    changed, groups = coupling(model), groups_of(model)
    group = next(g for g in groups.values() if g.name == "fine.first.0.channels")
    assert objections(changed, group) == []
    joined = dataclasses.replace(rows(group, np.arange(8).reshape(4, 2)), units=4)
    joined = with_members(joined, lambda m: dataclasses.replace(m, index=m.index.reshape(4, -1)))
    assert "4 units" in objections(changed, joined)[0]
    first = next(m for m in group.members if m.role == "produces")
    fewer = with_members(group, lambda m: None if m.value == first.value else m)
    assert "only one of" in objections(changed, fewer)[0]
    shifted = with_members(
        group, lambda m: dataclasses.replace(m, index=m.index[::-1]) if m is first else m
    )
    assert "other places" in objections(changed, shifted)[0]
    activation = next(m for m in group.members if not m.stored and m.value not in changed.sizes)
    blind = with_members(group, lambda m: None if m is activation else m)
    assert any("stays as it is" in text for text in objections(changed, blind))


@pytest.mark.torch
def test_changed_channels_see_what_is_apart_and_what_leaves(
    split: Callable[[], ir.Model],
) -> None:
    model = split()
    changed: Coupling = coupling(model)
    sites = {site.name: site for site in find_sites(model)}

    def apart(name: str) -> bool:
        return separable(changed, str(sites[name].nodes[0].outputs[0].name))

    assert apart("fine.first.0")
    assert not apart("heads.0.1")


@pytest.mark.torch
def test_zeros_at_other_places_are_seen(split: Callable[[], ir.Model]) -> None:
    model = split()
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)}
    group = groups_of(model)["stem.0.0.channels"]
    assert tried(model, {group: [0, 2, 5]}, feeds).difference < 1e-5
    other = with_members(
        group,
        lambda m: dataclasses.replace(m, index=m.index[::-1]) if m.role == "consumes" else m,
    )
    assert tried(model, {other: [0, 2, 5]}, feeds).difference > 1e-2
