"""The pairs of each probe, as all patching stores group them."""

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import pandas as pd

from r2a.patching.measurement import is_used
from r2a.progress import logger
from r2a.store import NothingToMeasure, add_array, add_axis, read_parquet


def used_pairs(pairs: Path) -> dict[str, pd.DataFrame]:
    """The pairs that were not left out, by probe; all pairs of a probe have the same roles."""
    table = read_parquet(pairs)
    table = table[table["left_out"] == ""]
    whole = ("answer_a_id", "answer_b_id", "clean_reasoning_start", "corrupted_reasoning_start")
    table = table.astype(dict.fromkeys(whole, int))  # pandas made them floats: pairs that are left out have none
    return {str(probe): rows.reset_index(drop=True) for probe, rows in table.groupby("probe", sort=False)}


def refuse_unused(by_probe: Mapping[str, pd.DataFrame], activations: h5py.File) -> None:
    """Raise NothingToMeasure if there is no pair in which both runs prefer their own answers."""
    n_used = 0
    for probe, table in by_probe.items():
        used = [is_used(table, activations[probe], number) for number in range(len(table))]
        logger.info(f"{probe}: {sum(used)} of {len(table)} pairs prefer their own answers in both runs")
        n_used += sum(used)
    if n_used == 0:
        raise NothingToMeasure("in no pair do both runs prefer their own answers")


def plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows as plain values, from which the hashes of parts are made."""
    return [json.loads(row) for row in table.to_json(orient="records", lines=True).splitlines()]


def probe_groups(
    file: h5py.File, by_probe: Mapping[str, pd.DataFrame]
) -> Iterator[tuple[str, pd.DataFrame, h5py.Group]]:
    """A new group with the axis `pair` for each probe, after the file's axis `probe`: (probe, its pairs, group)."""
    add_axis(file, "probe", list(by_probe))
    for probe, table in by_probe.items():
        group = file.create_group(probe)
        add_axis(group, "pair", list(table["pair"]))
        yield probe, table, group


def write_left_out(group: h5py.Group, probe: str, own: Sequence[int], found: Container[int]) -> None:
    """Write which of a shard's own pairs did not fit into memory, as those not found, and log how many."""
    n_missing = sum(number not in found for number in own)
    if n_missing:
        logger.warning(f"{probe}: {n_missing} of {len(own)} pairs left out: too long for memory")
    left_out = add_array(group, "is_left_out", ("pair",), "1 where it does not fit into memory", "int8", 0)
    for number in own:
        left_out[number] = number not in found
