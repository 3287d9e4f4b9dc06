"""Draws from a list that change little when the list grows: what is added takes the place of a few, not of all."""

import hashlib
from collections.abc import Sequence


def drawn(names: Sequence[str], n: int | None, seed: object) -> list[str]:
    """n of the names, or all, in their order: those whose hashes with the seed are the lowest."""
    chosen = set(sorted(names, key=lambda name: _place(seed, name))[:n])
    return [name for name in names if name in chosen]


def drawn_one(names: Sequence[str], seed: object) -> str:
    """One of the names, at least one."""
    return min(names, key=lambda name: _place(seed, name))


def shuffled(names: Sequence[str], seed: object) -> list[str]:
    """All names in the order of their hashes with the seed."""
    return sorted(names, key=lambda name: _place(seed, name))


def _place(seed: object, name: str) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode()).digest()
