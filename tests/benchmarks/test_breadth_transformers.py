"""What the breadth of transformers is judged by: counts, silence and differences."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.breadth_transformers import Cell, figures, share
from benchmarks.run import benchmark
from benchmarks.zoo.cutting import Compared, Found, Reason, of_blocks
from benchmarks.zoo.table import FAMILIES

BERT = FAMILIES["BERT"]
WHOLE = Compared(Found((4, 4), 2, 4, ()), Found((40, 40), 2, 40, ()), 1e-7, 0.5)


def cell(found: Compared | None = WHOLE) -> Cell:
    return Cell(BERT, 20, "eager", found, "" if found else "no exporter")


def words(*cells: Cell) -> list[str]:
    return [figure.word for figure in figures(cells)]


def test_all_blocks_cut_meet_every_bar() -> None:
    assert words(cell()) == ["pass"] * 5
    assert cell().row()[1:4] == ("2 of 2", "2 of 2", "4 + 40")


def test_a_difference_or_a_cut_without_effect_is_a_wrong_cut() -> None:
    assert words(cell(replace(WHOLE, difference=1e-3)))[:2] == ["miss", "miss"]
    assert words(cell(replace(WHOLE, effect=1e-9)))[0] == "miss"
    assert words(cell(replace(WHOLE, difference=float("inf"))))[1] == "miss"


def test_a_slice_that_a_cut_leaves_behind_makes_it_wrong() -> None:
    assert not cell(replace(WHOLE, added=("Slice",))).right
    assert cell(replace(WHOLE, added=("Concat",))).right  # of a Reshape's new target


def test_more_units_than_the_configuration_has_are_a_wrong_cut() -> None:
    assert not cell(replace(WHOLE, heads=Found((24, 4), 2, 4, ()))).right


def test_neurons_in_an_attention_block_are_a_wrong_cut() -> None:
    assert not cell(replace(WHOLE, neurons=Found((40, 40), 3, 43, (), ("value.neurons",)))).right


def test_a_block_left_whole_needs_a_reason() -> None:
    reason = Reason("layer.1", "signature", "the axis reaches the output 'present'")
    silent = cell(replace(WHOLE, heads=Found((4,), 1, 2, ())))
    told = cell(replace(WHOLE, heads=Found((4,), 1, 2, (reason,))))
    assert (silent.silent(), told.silent()) == (1, 0)
    assert words(silent)[2] == "miss"
    assert words(told) == ["pass", "pass", "pass", "pass", "miss"]
    assert "signature" in told.row()[-1]


def test_a_family_without_any_export_is_missed() -> None:
    assert words(cell(None))[3] == "miss"
    assert words(cell(None), cell())[3] == "pass"


def test_blocks_that_go_together_are_counted_apart() -> None:
    cuts = [{"of": 4, "sites": ["q0", "o0", "q1", "o1"]}]
    assert of_blocks([frozenset({"q0"}), frozenset({"q1"}), frozenset({"q2"})], cuts) == (4, 4)
    assert share(Found((4, 4), 1, 2, ()), (4, 4)) == "2 of 2 in 1"


def test_it_is_registered() -> None:
    assert benchmark("breadth-transformers").__module__ == "benchmarks.breadth_transformers"
