"""A compile of a model too large to be run here: what is done, and what is said of it."""

from __future__ import annotations

from ..checking.regionruns import RegionRuns
from ..outcome import Finished
from ..policy import LOSSLESS
from ..prepare import Prepared
from ..result import Plan, Quality, Speed
from ..workshop import Judged

SMALLEST = f"{LOSSLESS},quantize{{scheme=dynamic}}"


def without_runs(prepared: Prepared, plan: Plan | None) -> Finished:
    """Build one pipeline, its edits checked on regions of the graph, and judge nothing.

    The pipeline is the user's or the plan's. Else it is the lossless one, or under goal ``size``
    quantization with ranges taken at run time: what cannot be measured is not chosen.
    """
    request, workshop = prepared.request, prepared.workshop
    text, notes = request.pipeline, []
    if plan is not None:
        text = plan.pipeline
        if plan.spellings:
            names = ", ".join(plan.spellings)
            notes.append(f"the plan's spellings {names} are left out: whether they pay is measured")
    elif text is None and request.goal == "size":
        text = SMALLEST
    elif text is None:
        text = LOSSLESS
        notes.append(
            "quantization was not tried, as neither its speed nor its quality can be measured; "
            "--goal size or --passes asks for it all the same"
        )
    build = workshop.build(text, None if plan is None else plan.given_back)
    quality = Quality("unverified", sentence=_sentence(prepared.regions))
    speed = Speed("not-measured", threads=request.threads, reason=prepared.estimate.reason)
    return Finished(Judged(build, None, quality, None), None, (), speed, tuple(notes))


def _sentence(regions: RegionRuns | None) -> str:
    """What was checked in the place of whole models, and what was not."""
    assert regions is not None
    parts = ["no whole model was run"]
    if regions.checked:
        parts.append(
            f"{regions.checked} changed regions ({len(regions.forms)} different) compute the same"
        )
    if regions.lossy:
        parts.append(f"{regions.lossy} lossy edits were checked on their regions")
    if regions.left:
        parts.append(f"{len(regions.left)} could not be checked")
    return "; ".join(parts)
