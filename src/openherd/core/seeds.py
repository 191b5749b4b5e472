"""Seeds: every random choice is a pure function of the run's seed and a name."""

import hashlib


def derive_seed(seed: int, *names: object) -> int:
    """A 63-bit seed for the purpose `names`; independent purposes get unrelated seeds."""
    text = repr((seed, *(str(name) for name in names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def uniform(seed: int, *names: object) -> float:
    """A number in [0, 1) that depends on nothing but its arguments; used to sample by document id, in any order."""
    return derive_seed(seed, *names) / 2**63
