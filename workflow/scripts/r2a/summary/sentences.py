"""The finding on sentences: is the part of the reasoning that the RFHs read the one that the answer depends on?"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from r2a.roles import ALL_HEADS, SENTENCE_MEASURES
from r2a.summary.registry import Cell, Found, Plot, finding
from r2a.summary.words import (
    NONE,
    in_cases,
    number,
    p_value,
    points,
    rows_of,
    said_p,
    share,
    sorted_out,
    tested,
    with_interval,
    word,
)

# perturbation and control: the sentence, and what happens to it
CHANGES_OF_READ = {
    ("most_read_result", "little_read_result"): (
        "Replacing the result in the sentence that the RFHs read most changes more answers than replacing one in a "
        "similar sentence that they read little", "result replaced",
    ),
    ("without_most_read", "without_little_read"): (
        "Taking out the former sentence changes more answers than taking out the latter", "taken out",
    ),
}  # fmt: skip
SHOWN = ("read_rfh", "belief_change", "effect", "effect_rfh", "importance")  # measures whose cost is shown


@finding(
    label="which sentences the answer depends on",
    category="2 Attention",
    caption=(
        "Belief: the answer that the model gives if its reasoning is closed early; the share of the reasoning's tokens "
        "that come after the greedy answer has stopped changing, and the mean probability of the final answer over the "
        "reasoning. Needed: what the answer loses if a sentence is hidden in all heads; its rank correlation over a "
        "trace's sentences, averaged over problems, with the loss if the sentence is hidden from the RFHs or from "
        "matched heads alone, and with how much these heads attend to it (read); p, by sign flips after Holm's "
        "correction, is for the RFHs' attention. Changed: the share of greedy answers that change if the sentence that "
        "the RFHs read most is hidden in all heads, and if one of similar length and position that they read little "
        "is. {interval} bootstrap intervals over problems."
    ),
    reads={
        "settling": "<results>/tables/{model}/{dataset}/settling.csv",
        "agreement": "<results>/tables/{model}/{dataset}/sentence_agreement.csv",
        "experiment": "<results>/tables/{model}/{dataset}/sentence_experiment.csv",
    },
    where="graded_datasets",
    models="parsed_models",
    is_open=True,
)
def find_sentences(
    settling: Sequence[Path], agreement: Sequence[Path], experiment: Sequence[Path], settings: Mapping[str, Any]
) -> Found:
    """Where belief settles, and whether the answer needs the sentences that the RFHs read."""
    found = Found(plots=[
        Plot(
            title="what the answer needs against what RFHs (●) and matched heads (○) read, rank correlation",
            columns=["needed, read by RFHs", "needed, read by matched heads"], zero=0,
        ),
    ])  # fmt: skip
    filled, found.missing = sorted_out(settling, settings)
    agreements, experiments = (dict(sorted_out(paths, settings)[0]) for paths in (agreement, experiment))
    goes_together, more_than_matched, changes_more = [], [], []
    for subject, path in filled:
        settled = pd.read_csv(path).set_index("group").loc["all"]
        pairs = pd.read_csv(agreements[subject]).set_index(["first", "second"])
        hidden = (
            pd.read_csv(experiments[subject]).set_index(["arm", "measure"]).reindex([(ALL_HEADS, "changed")]).iloc[0]
        )
        rfhs, matched = pairs.loc[("effect", "read_rfh")], pairs.loc[("effect", "read_matched")]
        cells = _belief(settled) | _agreement(pairs)
        cells |= {"p": p_value(rfhs["p_holm"]), "n": number(rfhs["n_problems"])} | _changed(hidden)
        changes_more.append(bool(hidden["low"] > 0))
        goes_together.append(bool(rfhs["low"] > 0))
        more_than_matched.append(bool(rfhs["low"] > matched["high"]))
        found.rows.append((subject, cells))
    if goes_together:
        found.sentences = [
            f"The more the RFHs attend to a sentence, the more the answer needs it {in_cases(goes_together)}.",
            f"Their attention agrees with the need better than that of matched heads {in_cases(more_than_matched)}.",
            "Hiding the sentence that they read most changes more answers than hiding a similar one that they read "
            f"little {in_cases(changes_more)}.",
        ]
    return found


def _belief(settled: pd.Series) -> dict[str, Cell]:
    return {
        "reasoning after belief has settled": share(
            settled["share_after"], settled["share_after_low"], settled["share_after_high"], settled["n_traces"],
            of="traces",
        ),
        "mean probability of the answer": with_interval(
            settled["area"], settled["area_low"], settled["area_high"], settled["n_traces"], of="traces"
        ),
    }  # fmt: skip


def _agreement(pairs: pd.DataFrame) -> dict[str, Cell]:
    """How what the answer needs goes together with what heads carry and read. pairs: by first and second measure."""
    cells = {}
    for name, second in {
        "needed, hidden from RFHs": "effect_rfh", "needed, hidden from matched heads": "effect_matched",
        "needed, read by RFHs": "read_rfh", "needed, read by matched heads": "read_matched",
    }.items():  # fmt: skip
        row = pairs.loc[("effect", second)]
        cells[name] = with_interval(
            row["rank_correlation"], row["low"], row["high"], row["n_problems"], zero=0, is_signed=True
        )
    return cells


def _changed(hidden: pd.Series) -> dict[str, Cell]:
    """Answers that change without the sentence that the RFHs read most, and without one that they read little."""
    return {
        "changed without the most read": number(100 * hidden["most"], "{:.0f} %"),
        "without one little read": number(100 * hidden["little"], "{:.0f} %"),
        "difference, points": points(
            hidden["difference"], hidden["low"], hidden["high"], hidden["n_problems"], said_p(hidden["p_holm"])
        ),
    }


@finding(
    label="answers after a change of what the RFHs read",
    category="2 Attention",
    caption=(
        "The sentence that the RFHs read most from the answer is taken out of the reasoning's text, or the last result "
        "in it is replaced, and the answer generated again; likewise with a sentence of similar length and place that "
        "they read little. Share of answers that change, paired by problem, {interval} intervals, p after Holm's "
        "correction over all changes of the text."
    ),
    reads={"comparisons": "<results>/tables/{model}/{dataset}/perturbation_comparisons.csv"},
    where="datasets_perturbed_by_heads",
    models="weighted_models",
    is_open=True,
)
def find_read_sentences(comparisons: Sequence[Path], settings: Mapping[str, Any]) -> Found:
    """Whether changing the sentence that the RFHs read most changes more answers than changing a similar one."""
    found = Found()
    filled, found.missing = sorted_out(comparisons, settings)
    changes_more: dict[str, list[bool]] = {said: [] for said, _ in CHANGES_OF_READ.values()}
    for subject, path in filled:
        table = pd.read_csv(path).query("measure == 'agreement'").set_index(["perturbation", "control"])
        for pair, (said, change) in CHANGES_OF_READ.items():
            if pair not in table.index:
                continue
            agrees = table.loc[pair]
            # an answer changes if it no longer agrees with the original one
            changed = {**agrees, "difference": -agrees["difference"], "low": -agrees["high"], "high": -agrees["low"]}
            cells = {
                "sentence": word(change),
                "changed, most read": number(100 * (1 - agrees["share"]), "{:.0f} %"),
                "changed, little read": number(100 * (1 - agrees["control_share"]), "{:.0f} %"),
                "difference, points": tested(changed),
                "p, Holm": p_value(agrees["p_holm"]),
                "n": number(agrees["n_problems"]),
            }
            changes_more[said].append(cells["difference, points"].sign > 0)
            found.rows.append((subject, cells))
    found.sentences = [f"{said} {in_cases(cases)}." for said, cases in changes_more.items() if cases]
    return found


@finding(
    label="agreement and cost of measures on sentences",
    category="2 Attention",
    caption=(
        "The cost of measuring all sentences of a trace, in runs of the whole trace: tokens that the model reads and, "
        "in resampling, generates. Stand-in: the cheapest measure, among those cheaper than this one, that agrees with "
        "it: the {interval} bootstrap interval of their rank correlation within traces lies above 0, uncorrected."
    ),
    reads={"costs": "<results>/tables/{model}/{dataset}/sentence_costs.csv"},
    where="graded_datasets",
    models="parsed_models",
    is_headline=False,
)
def find_sentence_costs(costs: Sequence[Path], settings: Mapping[str, Any]) -> Found:
    """The cost of each measure, and the cheapest one that can stand in for it."""
    has_stand_in, passes = [], []

    def of_measures(path: Path) -> Iterator[dict[str, Cell]]:
        table = pd.read_csv(path).set_index("measure")
        for _, row in table[table.index.isin(SHOWN)].iterrows():
            stand_in = NONE if pd.isna(row["stand_in"]) else SENTENCE_MEASURES[row["stand_in"]]
            yield {
                "measure": word(row["label"]), "runs of the trace": number(row["passes"], "{:.3g}"),
                "stand-in": word(stand_in), "rank correlation": number(row["rank_correlation"], "{:.2f}"),
            }  # fmt: skip
        has_stand_in.append(not pd.isna(table.loc["effect", "stand_in"]))
        passes.append(table.loc[["belief_change", "effect"], "passes"])

    found = rows_of(costs, settings, of_measures)
    if passes:
        belief, effect = pd.concat(passes, axis=1).median(axis=1)
        found.sentences = [
            f"A belief curve costs {belief:.3g} runs of a trace, suppression {effect:.3g} (medians over cases).",
            f"A cheaper measure agrees with suppression {in_cases(has_stand_in)}.",
        ]
    return found
