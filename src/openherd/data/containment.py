"""Documents that stand whole inside another one (paper 3.1.1 is silent on them).

The largest document first, so that none that is kept stands by more than the limit in another one that is kept. All shingles of
all documents are in memory: for corpora of one site, or of reference pages.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from openherd.data.shingles import Numbers

BYTES_PER_SHINGLE = 64  # itself, its number, its order, and what sorting needs


def contained(limit: float, values: npt.NDArray[np.uint64], starts: Numbers, order: Sequence[int]) -> dict[int, tuple[int, float]]:
    """Of sets of shingles those of which more than `limit` stands in a larger one that stays: that one, and the share.

    Sets lie behind each other; of equally large ones those first in `order` stay.
    """
    sizes = np.diff(starts)
    chosen = sorted((i for i in order if sizes[i]), key=lambda i: -sizes[i])
    if not chosen:
        return {}
    _, shingle = np.unique(values, return_inverse=True)
    place_of = np.zeros(len(sizes), np.int64)
    place_of[chosen] = np.arange(len(chosen))
    owners = np.repeat(place_of, sizes)
    by_shingle = np.argsort(shingle, kind="stable")
    holders_of = owners[by_shingle]  # the documents of each shingle side by side
    begins = np.concatenate([[0], np.cumsum(np.bincount(shingle))])
    stays = np.zeros(len(chosen), bool)
    found = {}
    for place, i in enumerate(chosen):
        own = shingle[starts[i] : starts[i + 1]]
        n_holders = begins[own + 1] - begins[own]
        offsets = np.arange(n_holders.sum()) - np.repeat(np.cumsum(n_holders) - n_holders, n_holders)
        holders = holders_of[np.repeat(begins[own], n_holders) + offsets]
        shared = np.bincount(holders[stays[holders]], minlength=len(chosen))
        within = int(shared.argmax())
        share = float(shared[within] / sizes[i])
        if share > limit:
            found[i] = chosen[within], share
        else:
            stays[place] = True
    return found
