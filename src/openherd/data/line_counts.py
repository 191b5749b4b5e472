"""Which keys stand too often, and which runs stood before, in bounded memory (paper 3.1.1).

Keys are looked at a share at a time, by their value, and sorted; what is held of all is only what is too frequent.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from openherd.data.shingles import Numbers

Keys = npt.NDArray[np.uint64]
BYTES_PER_KEY = 40  # while a share is sorted


def shares_of(n: int, memory: float) -> int:
    """Into how many shares n keys are cut so that `memory` bytes suffice for one."""
    return max(1, int(np.ceil(n * BYTES_PER_KEY / memory)))


def of_share(keys: Keys, share: int, shares: int) -> npt.NDArray[np.bool_]:
    """Which keys belong to a share; those of lines are spread evenly."""
    return np.asarray(keys % np.uint64(shares) == share)


def frequent_keys(parts: Callable[[], Iterator[Keys]], shares: int, most: int) -> tuple[Keys, Numbers]:
    """The keys that stand more than `most` times, sorted, and how often each does."""
    found, counts = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for share in range(shares):
        keys = np.concatenate([np.empty(0, np.uint64), *(part[of_share(part, share, shares)] for part in parts())])
        keys.sort()
        begins = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
        n = np.diff(np.concatenate([begins, [len(keys)]]))
        found.append(keys[begins[n > most]])
        counts.append(n[n > most])
    keys, n = np.concatenate(found), np.concatenate(counts)
    order = np.argsort(keys)
    return keys[order], n[order]


def repeated_keys(parts: Callable[[], Iterator[tuple[Keys, Numbers]]], shares: int) -> tuple[Keys, Numbers]:
    """The keys that stand more than once, sorted, and the first place of each; keys come with their places."""
    found, firsts = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for share in range(shares):
        own, at = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for keys, places in parts():
            chosen = of_share(keys, share, shares)
            own.append(keys[chosen])
            at.append(places[chosen])
        keys, places = np.concatenate(own), np.concatenate(at)
        order = np.lexsort((places, keys))
        keys, places = keys[order], places[order]
        begins = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
        several = np.diff(np.concatenate([begins, [len(keys)]])) > 1
        found.append(keys[begins[several]])
        firsts.append(places[begins[several]])
    keys, places = np.concatenate(found), np.concatenate(firsts)
    order = np.argsort(keys)
    return keys[order], places[order]


def places_in(known: Keys, keys: Keys) -> tuple[npt.NDArray[np.bool_], Numbers]:
    """Which keys are among the known, sorted ones, and where; of the others the place means nothing."""
    if not len(known):
        return np.zeros(len(keys), bool), np.zeros(len(keys), np.int64)
    places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return known[places] == keys, places


def ranks(places: Numbers, before: Numbers) -> Numbers:
    """How many times each place stood before in the list, or was counted before it; what is counted then is added to `before`."""
    order = np.argsort(places, kind="stable")
    ordered = places[order]
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)])
    n = np.diff(np.concatenate([begins, [len(ordered)]]))
    found = np.empty(len(places), np.int64)
    found[order] = np.arange(len(places)) - np.repeat(begins, n) + before[ordered]
    before[ordered[begins]] += n
    return found
