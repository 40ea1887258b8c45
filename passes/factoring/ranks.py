"""Which ranks layers may have, and which they get for one request over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..api import PREDICTED, Context
from ..math.lowrank import most_rank, shared_ranks
from .groups import Group, Reason
from .seen import Seen
from .sharing import costs, ladder, ranks_within

NOT_OBSERVED: Reason = ("not-observed", "no calibration feed reached it")
SPARED: Reason = "spared", "for the parameters that it saves other layers change the outputs less"


@dataclass(frozen=True, eq=False)
class Ranks:
    """Ranks for the groups of one graph. gain: time, by the figures of the target, or size.

    A rank may also be the reason why there is none.
    """

    ctx: Context
    gain: str

    @property
    def multiple(self) -> int:
        """What ranks are multiples of."""
        return self.ctx.target.multiples.rank

    def judged(self, group: Group, rank: int | Reason) -> int | Reason:
        """The rank, if it pays."""
        most, (inputs, outputs) = most_rank(group.shape), group.shape
        if not isinstance(rank, int):
            return rank
        if self.multiple > most:
            why = f"no multiple of {self.multiple} is a rank that saves parameters"
            return "too-small", why
        if rank > most:
            why = f"rank {rank} is too much: factors of {inputs}x{outputs} save up to rank {most}"
            return "no-saving", why
        return self._slower(group, rank) or rank

    def alike(self, groups: Sequence[Group], room: float) -> dict[Group, int | Reason]:
        """The same ratio for each, so that all have room for their parameters."""
        found: dict[Group, int | Reason] = {}
        while left := [g for g in groups if not isinstance(found.get(g), tuple)]:
            kept = sum(g.parameters for g in groups if g not in left)
            ranks = shared_ranks([g.shape for g in left], max(room - kept, 0.0), self.multiple)
            judged = {g: self.judged(g, r) for g, r in zip(left, ranks, strict=True)}
            found |= judged
            if not any(isinstance(rank, tuple) for rank in judged.values()):
                break
        return {group: found[group] for group in groups}

    def measured(
        self,
        groups: Sequence[Group],
        room: float,
        seen: Callable[[Group], Seen | None],
        change: Callable[[Group, int], float],
    ) -> dict[Group, int | Reason]:
        """Those with which the model's outputs change least.

        change: of the outputs, relative squared error, with one group alone at a rank.
        """
        found: dict[Group, int | Reason] = dict.fromkeys(groups, SPARED)
        ladders, prices = dict[Group, list[int]](), list[list[float]]()
        for group in groups:
            known, ranks = seen(group), self._may(group)
            if known is None or not isinstance(ranks, list):
                found[group] = NOT_OBSERVED if isinstance(ranks, list) else ranks
                continue
            ladders[group] = ranks
            alone = partial(change, group)
            prices.append(costs(ranks, self.multiple, _losses(known), alone))
        request = sum(group.parameters for group in groups) - room
        ranks_of = ranks_within(list(ladders), list(ladders.values()), prices, request)
        taken = zip(ladders, ranks_of, strict=True)
        return found | {group: rank for group, rank in taken if rank is not None}

    def _may(self, group: Group) -> list[int] | Reason:
        """Ranks that pay, the largest first, or why there is none."""
        tried = ladder(most_rank(group.shape), self.multiple) or [self.multiple]
        judged = [self.judged(group, rank) for rank in tried]
        ranks = [rank for rank in judged if isinstance(rank, int)]
        reasons = [verdict for verdict in judged if not isinstance(verdict, int)]
        return ranks or reasons[-1]

    def _slower(self, group: Group, rank: int) -> Reason | None:
        if self.gain == "size":
            return None
        rows = (str(group.uses[0].output.name), _channel_axis(group))
        before = self.ctx.analysis(PREDICTED, (rows, group.whole))
        after = self.ctx.analysis(PREDICTED, (rows, group.factored(rank)))
        if before is None or after is None or after < before:
            return None
        said = f"as factors of rank {rank} it would take {after:.4f} ms, as it is {before:.4f} ms"
        return "slower", f"by the target's figures {said}; gain=size takes the smaller file"


def _losses(seen: Seen) -> np.ndarray:
    """What is left out at ranks 0, 1, 2 …, in units of the weighed variance."""
    energies = seen.spectrum.energies
    left = energies.sum() - np.concatenate([[0.0], np.cumsum(energies)])
    return np.asarray(np.maximum(left, 0.0), np.float64)


def _channel_axis(group: Group) -> int:
    return 1 if group.convolves else len(group.uses[0].output.shape or ()) - 1
