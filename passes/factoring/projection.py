"""A layer of smaller rank in numbers: two factors, and the full-size weight that equals them."""

from __future__ import annotations

import numpy as np

from ..math.lowrank import factors
from .groups import Group
from .lowering import Factors
from .seen import Seen, corrected

Arrays = dict[str, np.ndarray]


def projected(group: Group, rank: int, seen: Seen) -> tuple[Factors, Arrays]:
    """The factors of a rank, and what full-size tensors hold that compute the same, by name.

    A product is stored in the dtype of the weights, factors likewise; biases take up the mean.
    """
    made = factors(group.matrix(), seen.spectrum.basis[:, :rank], seen.scale)
    first, second = (factor.astype(group.dtype) for factor in made)
    product = first.astype(np.float64) @ second
    biases = tuple(corrected(group, first, second, seen))
    sites = zip(group.sites, biases, strict=False)
    tensors = group.stored(product.astype(group.dtype))
    tensors |= {str(site.bias.name): bias for site, bias in sites if site.bias is not None}
    return Factors(first, second, biases), tensors
