"""Which sites to give back to float: those that lose most for what they bring.

What a site loses is what its edit alone does to the outputs, where that was measured, else the
error of its own region. What it brings is its share of all operations, or of all bytes saved,
whichever is more: which of them takes the time is for the device to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..ir.provenance import Edit, Remark

Given = tuple[str, str]
"""Pass and site."""
GRAPH = "graph"
"""The site of edits that concern all that is left."""
GIVEN_BACK = "given-back"
"""Code of remarks on sites that were left alone to hold the quality bound, or as they cost it more
than they bring."""
HELD_BACK = "left as it was to hold the quality bound"
DENSITY = 4.0
"""A site is out of proportion where its share of the loss is so many times what it brings."""
QUIET = 1e-3
"""Relative squared error of outputs (30 dB) below which nothing is out of proportion."""


def loss_per_saving(edits: Sequence[Edit]) -> list[Given]:
    """Lossy edits, most loss for what they bring first; names break ties."""
    lossy = [e for e in edits if e.loss is not None and e.loss > 0]
    if not _weighed(lossy):
        ranked = sorted(lossy, key=lambda e: (-(e.loss or 0.0) / max(e.saving, 1), e.site))
        return [_given(e) for e in ranked]
    shares = _shares(lossy)
    ranked = sorted(lossy, key=lambda e: (-_loss(e) / shares[_given(e)], e.site))
    return [_given(e) for e in ranked]


def out_of_proportion(edits: Sequence[Edit]) -> dict[Given, str]:
    """Sites that cost more accuracy than they bring, each with a sentence that says so.

    Of the sites of one pass the densest is taken out again and again, as long as it has
    ``DENSITY`` times the loss per share of what is left, and more than ``QUIET`` is left. Passes
    are not weighed against each other: zeros bring something else than few bits. Nothing where
    losses were not measured at the outputs.
    """
    lossy = [e for e in edits if e.loss is not None and e.loss > 0 and e.site != GRAPH]
    if not _weighed(lossy):
        return {}
    found = dict[Given, str]()
    for name in dict.fromkeys(e.pass_name for e in lossy):
        found |= _out_of_proportion([e for e in lossy if e.pass_name == name])
    return found


def _out_of_proportion(lossy: Sequence[Edit]) -> dict[Given, str]:
    shares, found = _shares(lossy), dict[Given, str]()
    by_name = {_given(e): e for e in lossy}
    loss, left = sum(map(_loss, lossy)), 1.0
    for given in loss_per_saving(lossy):
        own, share = _loss(by_name[given]), shares[given]
        if loss <= QUIET or own * left <= DENSITY * share * loss:
            break
        rest = AMONG.format(len(lossy) - len(found)) if found else ""
        found[given] = SENTENCE.format(given[0], 100 * own / loss, rest, 100 * share / left)
        loss, left = max(loss - own, 0.0), left - share
    return found


AMONG = ", among the {} sites that were left by then"
SENTENCE = (
    "left as it was: {} would have {:.1f} % of its loss at the outputs here{}, for {:.1f} % of "
    "what it brings; with a bound of your own (--max-drop, --max-drift) that decides instead"
)


def disproportionate(remarks: Sequence[Remark]) -> int:
    """How many of the sites that a build left alone are so for ``out_of_proportion``."""
    return sum(r.code == GIVEN_BACK and r.sentence != HELD_BACK for r in remarks)


def dear(count: int) -> str:
    """What is said of so many."""
    if count == 1:
        return "1 layer that costs more accuracy than it brings was left as it was: see the report"
    said = "layers that cost more accuracy than they bring were left as they were: see the report"
    return f"{count} {said}"


def grouped(pairs: Sequence[Given]) -> dict[str, tuple[str, ...]]:
    """Sites by pass."""
    found: dict[str, list[str]] = {}
    for name, site in pairs:
        found.setdefault(name, []).append(site)
    return {name: tuple(sorted(sites)) for name, sites in found.items()}


def _weighed(lossy: Sequence[Edit]) -> bool:
    """Whether the loss at the outputs is known of every one; that of the whole graph always is."""
    return any(e.output_loss is not None for e in lossy) and all(
        e.output_loss is not None for e in lossy if e.site != GRAPH
    )


def _loss(edit: Edit) -> float:
    found = edit.output_loss if edit.output_loss is not None else edit.loss
    return min(found or 0.0, 1e6)  # finite, so that losses add up


def _shares(lossy: Sequence[Edit]) -> Mapping[Given, float]:
    """What each brings, above 0 and at most 1; an edit of the whole graph has all of it."""
    sites = [e for e in lossy if e.site != GRAPH]
    operations = sum(e.operations or 0 for e in sites)
    saved = sum(max(e.saving, 0) for e in sites)
    found = dict.fromkeys(map(_given, lossy), 1.0)
    for edit in sites:
        share = (edit.operations or 0) / max(operations, 1)
        found[_given(edit)] = max(share, max(edit.saving, 0) / max(saved, 1), 1e-9)
    return found


def _given(edit: Edit) -> Given:
    return edit.pass_name, edit.site
