"""Random draws from a list that change little when it grows: an added name replaces at most a few of those drawn."""

import hashlib
from collections.abc import Sequence


def drawn(names: Sequence[str], n: int | None, seed: object) -> list[str]:
    """n of the names, or all, in their order: those with the lowest hashes of name and seed."""
    chosen = set(sorted(names, key=lambda name: _place(seed, name))[:n])
    return [name for name in names if name in chosen]


def drawn_one(names: Sequence[str], seed: object) -> str:
    """One of at least one name."""
    return min(names, key=lambda name: _place(seed, name))


def shuffled(names: Sequence[str], seed: object) -> list[str]:
    """All names, ordered by their hashes with the seed."""
    return sorted(names, key=lambda name: _place(seed, name))


def _place(seed: object, name: str) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode()).digest()
