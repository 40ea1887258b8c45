"""A layer as the matrices that get zeros: groups of rows that stand next to each other.

A pattern goes along the input channels. The rows of a convolution, a channel and a tap each, are
therefore taken tap by tap, as kernels for zeros read them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from ...ir.graph import constant_array, constant_tensor
from ...ir.sites import Site
from ...ir.storage.tensors import tensor_digest
from ..api import Gram, GramTable
from ..cutting.consumers import Consumer, form_of, own_bias
from ..cutting.forms import looked_at
from ..math.refit import Doubles
from ..math.sparse_order import Order


@dataclass(frozen=True, eq=False)
class Layer:
    """reader: the layer. order: where each place of a new order of its input channels takes its
    channel from, int64 [channels of a group]; the rows follow it."""

    reader: Consumer
    order: Order

    @classmethod
    def of(cls, site: Site) -> Layer:
        """The channels as they stand. Raises UnfitError for a layer that is not a plain one."""
        form = form_of(site)
        seen = (looked_at(form, use) for use in site.uses)
        observed = tuple(dict.fromkeys(each for each in seen if each is not None))
        channels = np.arange(form.inputs // form.groups)
        reader = Consumer(site, form, channels[:, None], own_bias(site), observed)
        return cls(reader, channels)

    @property
    def site(self) -> Site:
        """Where it stands."""
        return self.reader.site

    @property
    def channels(self) -> int:
        """Input channels of a group of it: a pattern goes along them."""
        return self.reader.form.inputs // self.reader.form.groups

    @property
    def size(self) -> tuple[int, int]:
        """Inputs, of a convolution times its taps, and outputs; of a group."""
        form = self.reader.form
        return self.channels * prod(form.kernel), form.outputs // form.groups

    def reordered(self, order: Order) -> Layer:
        """The same with its channels in another order."""
        return replace(self, order=order)

    @property
    def rows(self) -> Order:
        """Of the matrices of the reader, tap by tap, the channels in order."""
        each = self.reader.form.rows_each
        return np.asarray((np.arange(each)[:, None] + self.order * each).reshape(-1))

    def matrices(self) -> Doubles:
        """The weight, float64 [groups, rows, outputs of a row]."""
        return np.asarray(self.reader.matrices()[:, self.rows])

    def stored(self, matrices: Doubles) -> np.ndarray:
        """Matrices as the weight is stored, in its dtype, its channels as they stand there."""
        back = np.empty_like(matrices)
        back[:, self.rows] = matrices
        return self.reader.stored(back)

    def gram(self, grams: GramTable) -> Gram:
        """Of all that is multiplied by the weight. Raises UnfitError where it was not observed."""
        return self.reader.gram(grams)

    def moments(self, gram: Gram) -> list[Doubles]:
        """For each group, what an error of the weight is weighed by: [rows, rows]."""
        return [moments[np.ix_(self.rows, self.rows)] for moments in self.reader.moments(gram)]

    def corrected(self, stored: np.ndarray, gram: Gram) -> dict[str, np.ndarray]:
        """The bias, by its name, that keeps the mean when the weight becomes ``stored``."""
        bias, form = self.reader.bias, self.reader.form
        old, before = constant_array(bias), self.reader.matrices()
        if bias is None or old is None:
            return {}
        lost = before - form.matrices(stored).astype(np.float64)
        means = gram.mean.reshape(len(before), -1)
        change = form.summed(np.einsum("gk,gkn->gn", means, lost)).reshape(old.shape)
        return {str(bias.name): (old.astype(np.float64) + change).astype(old.dtype)}

    def digest(self) -> str:
        """Of the weight."""
        tensor = constant_tensor(self.reader.weight)
        assert tensor is not None
        return tensor_digest(tensor)
