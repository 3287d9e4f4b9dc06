"""The finding on sentences: is the part of the reasoning that the RFHs read the one that the answer depends on?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.summary.registry import Found, Plot, finding
from r2a.summary.words import in_cases, number, p_value, share, sorted_out, with_interval


@finding(
    label="which sentences the answer depends on",
    category="2 Attention",
    caption=(
        "Belief: the share of the reasoning's tokens that come after the greedy answer, had the reasoning ended early, "
        "has stopped changing; and the mean probability of the final answer over the reasoning. Rank correlations over "
        "a trace's sentences, mean over problems: what the answer loses when a sentence is hidden in all heads, with "
        "what it loses when it is hidden from the RFHs or from matched heads alone, and with how much these read it. "
        "{interval} bootstrap intervals over problems; p of sign flips, after Holm's correction, is RFHs' reading's."
    ),
    reads={
        "settling": "<results>/tables/{model}/{dataset}/settling.csv",
        "agreement": "<results>/tables/{model}/{dataset}/sentence_agreement.csv",
    },
    where="graded_datasets",
    models="parsed_models",
    is_open=True,
)
def find_sentences(settling: Sequence[Path], agreement: Sequence[Path], settings: Mapping[str, Any]) -> Found:
    """Where belief settles, and whether reading by the RFHs goes with what the answer needs."""
    found = Found(plots=[
        Plot(
            title="what the answer needs against what RFHs (●) and matched heads (○) read, rank correlation",
            columns=["needed, read by RFHs", "needed, read by matched heads"], zero=0,
        ),
    ])  # fmt: skip
    filled, found.missing = sorted_out(settling, settings)
    agreements = dict(sorted_out(agreement, settings)[0])
    goes_together, more_than_matched = [], []
    for subject, path in filled:
        settled = pd.read_csv(path).set_index("group").loc["all"]
        pairs = pd.read_csv(agreements[subject]).set_index(["first", "second"])
        cells = {
            "reasoning after belief has settled": share(
                settled["share_after"], settled["share_after_low"], settled["share_after_high"], settled["n_traces"],
                of="traces",
            ),
            "mean probability of the answer": with_interval(
                settled["area"], settled["area_low"], settled["area_high"], settled["n_traces"], of="traces"
            ),
        }  # fmt: skip
        for name, second in {
            "needed, hidden from RFHs": "effect_rfh", "needed, hidden from matched heads": "effect_matched",
            "needed, read by RFHs": "read_rfh", "needed, read by matched heads": "read_matched",
        }.items():  # fmt: skip
            row = pairs.loc[("effect", second)]
            cells[name] = with_interval(
                row["rank_correlation"], row["low"], row["high"], row["n_problems"], zero=0, is_signed=True
            )
        rfhs, matched = pairs.loc[("effect", "read_rfh")], pairs.loc[("effect", "read_matched")]
        cells |= {"p": p_value(rfhs["p_holm"]), "n": number(rfhs["n_problems"])}
        goes_together.append(bool(rfhs["low"] > 0))
        more_than_matched.append(bool(rfhs["low"] > matched["high"]))
        found.rows.append((subject, cells))
    if goes_together:
        found.sentences = [
            f"What the RFHs read is what the answer needs, sentence by sentence, {in_cases(goes_together)}.",
            f"Their reading agrees with it better than that of matched heads {in_cases(more_than_matched)}.",
        ]
    return found
