"""Where belief settles, which sentences the answer depends on, and whether the measures agree (METHOD section 5)."""

import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu, spearmanr

from r2a.evaluation.outcomes import mean
from r2a.roles import ALL_HEADS, MATCHED, RFH, SENTENCE_MEASURES
from r2a.statistics import bootstrap_interval, holm, is_testable, sign_flip_p
from r2a.store import NothingToMeasure, axis_labels, filled, open_hdf5, provenance, read_parquet, write_csv
from r2a.text.categories import category
from r2a.text.sentences import most_and_little_read

PLACES = np.linspace(0, 1, 11)  # in the reasoning, at which belief is pooled
LEAST_SENTENCES = 4  # of a trace, for a rank correlation
ARMS = {ALL_HEADS: "", RFH: "_rfh", MATCHED: "_matched"}  # and how their columns end
# measures that are compared: what the answer depends on, and how it is read
COMPARED = (
    ("belief_change", "effect"), ("effect", "effect_rfh"), ("effect", "effect_matched"), ("effect", "read_rfh"),
    ("effect", "read_matched"), ("effect", "read"), ("belief_change", "read_rfh"), ("belief_change", "read_matched"),
    ("importance", "effect"), ("importance", "belief_change"), ("importance", "read_rfh"),
    ("importance", "read_matched"),
)  # fmt: skip


def write_sentences(
    sentences: Path,
    grades: Path,
    dataset: Path,
    tables: Mapping[str, Path],
    settings: Mapping[str, Any],
    *resampling: Path,
) -> None:
    """Write the two tables of read_sentences, and the tables made from them, of one model and dataset, as CSV.

    tables: paths of sentences, beliefs, settling, agreement, experiment and costs. resampling: the table of
    counterfactual importance, if there is one. settings: n_resamples, confidence, seed.
    """
    by_sentence, by_trace = read_sentences(sentences, grades, dataset)
    n_written = np.nan
    for path in filled(resampling):
        keys, found = ["uid", "sample", "sentence"], pd.read_csv(path).astype({"uid": str})
        ends = {"low": "importance_low", "high": "importance_high"}
        by_sentence = by_sentence.merge(found[[*keys, "importance", *ends]].rename(columns=ends), "left", on=keys)
        n_written = found["n_tokens"].mean()
    origin = provenance(settings, [sentences, grades, dataset, *resampling])
    write_csv(tables["sentences"], by_sentence, origin)
    write_csv(tables["beliefs"], belief_table(by_sentence, settings), origin)
    write_csv(tables["settling"], settling_table(by_trace, settings), origin)
    agreement = agreement_table(by_sentence, settings)
    write_csv(tables["agreement"], agreement, origin)
    write_csv(tables["experiment"], experiment_table(by_sentence, settings), origin)
    write_csv(tables["costs"], cost_table(by_trace, agreement, n_written), origin)


def read_sentences(sentences: Path, grades: Path, dataset: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per sentence, and one row per trace.

    A sentence's columns: uid, sample, sentence (1 to S; 0 stands for no sentence and has only a belief), text,
    category, n_tokens, place (share of the reasoning's tokens up to its end), log_probability (of the trace's own
    answer after it) and that of the reference, probability, greedy and is_own (after it), belief_change (of the
    log-probability); and effect, greedy_without (the answer without it) and read for all heads, with the suffix _rfh
    for the Reasoning-Focus Heads, and with _matched for matched ones.
    A trace's columns: uid, sample, level, is_correct, n_sentences, settled_after (sentences; nan if never), share_after
    (the share of the reasoning's tokens after that; 0 if never), area (the mean probability of the trace's own answer
    over the reasoning's tokens), and n_run, n_belief and n_suppression (tokens computed in the kept run, and continuing
    from it for belief and for one arm of suppression). Traces that did not fit into memory are left out.
    Raises NothingToMeasure if none did fit.
    """
    keys = ["uid", "sample"]
    verdicts = read_parquet(grades, [*keys, "is_correct"]).set_index(keys)["is_correct"]
    levels = read_parquet(dataset, ["uid", "level"]).set_index("uid")["level"]
    rows, traces = [], []
    with open_hdf5(sentences) as file:
        computed = axis_labels(file, "computed")
        places = {arm: number for number, arm in enumerate(axis_labels(file, "arm"))}
        uids, samples = file["uid"].asstr()[:], file["sample"][:].tolist()
        is_left_out = file["is_left_out"][:].astype(bool)
        if is_left_out.all():
            raise NothingToMeasure("no trace's sentences fit into memory (the log of measure_sentences names them)")
        for number, (uid, sample) in enumerate(zip(uids, samples, strict=True)):
            if is_left_out[number]:
                continue
            cut, starts = file["sentence_bounds"][number], file["text_bounds"][number]
            cut, starts = cut[cut >= 0], starts[: (cut >= 0).sum()]
            n_sentences, reasoning = len(cut) - 1, file["reasoning"].asstr()[number]
            place = (cut - cut[0]) / (cut[-1] - cut[0])
            belief = file["belief"][number, :, : n_sentences + 1].astype(float)
            is_own = file["is_own"][number, : n_sentences + 1]
            measures: dict[str, Any] = {
                f"{name}{suffix}": np.append(np.nan, file[name][number, places[arm], :n_sentences].astype(float))
                for name in ("effect", "read")
                for arm, suffix in ARMS.items()
            }
            for arm, suffix in ARMS.items():
                without = file["greedy_without"][number, places[arm], :n_sentences]
                measures[f"greedy_without{suffix}"] = ["", *(text.decode() for text in without)]
            texts = ["", *(reasoning[first:last] for first, last in pairwise(starts))]
            frame = {
                "uid": uid, "sample": sample, "sentence": np.arange(n_sentences + 1), "text": texts,
                "category": ["", *map(category, texts[1:])], "n_tokens": np.append(0, np.diff(cut)), "place": place,
                "log_probability": belief[0], "reference_log_probability": belief[1], "probability": np.exp(belief[0]),
                "greedy": [text.decode() for text in file["greedy"][number, : n_sentences + 1]], "is_own": is_own,
                "belief_change": np.append(np.nan, np.diff(belief[0])),
            }  # fmt: skip
            rows.append(pd.DataFrame(frame | measures))
            settled = settling_step(is_own.astype(bool).tolist())
            correct = verdicts.get((uid, sample))
            traces.append(
                {
                    "uid": uid, "sample": sample, "level": levels.get(uid),
                    "is_correct": np.nan if correct is None or pd.isna(correct) else float(correct),
                    "n_sentences": n_sentences, "settled_after": np.nan if settled is None else settled,
                    "share_after": 0.0 if settled is None else 1 - place[settled],
                    "area": float((np.exp(belief[0])[:-1] * np.diff(place)).sum()),
                    **{f"n_{name}": int(n) for name, n in zip(computed, file["n_computed"][number], strict=True)},
                }
            )  # fmt: skip
    return pd.concat(rows, ignore_index=True), pd.DataFrame(traces)


def settling_step(is_own: Sequence[bool]) -> int | None:
    """The first step from which the greedy answer stays the trace's own; None if the last one differs."""
    if not is_own[-1]:
        return None
    return max((step + 1 for step, own in enumerate(is_own) if not own), default=0)


def belief_table(by_sentence: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """One row per place in the reasoning: the mean probability of the trace's own answer if it ended there.

    share_own: the share of greedy answers that equal the trace's own there. Intervals: a bootstrap over problems.
    """
    curves = []
    for (uid, _), trace in by_sentence.groupby(["uid", "sample"], sort=False):
        # the last whole sentence before the place
        at = np.searchsorted(trace["place"].to_numpy(), PLACES + 1e-9, side="right") - 1
        curves.append((uid, *trace["probability"].to_numpy()[at], *trace["is_own"].to_numpy(float)[at]))
    by_problem = pd.DataFrame(curves).groupby(0, sort=False).mean().to_numpy()
    table = pd.DataFrame({"place": PLACES, "n_problems": len(by_problem), "n_traces": len(curves)})
    for name, values in zip(("probability", "share_own"), np.split(by_problem, 2, axis=1), strict=True):
        ends = [_interval(of_place, settings) for of_place in values.T]
        table[name] = values.mean(0)
        table[f"{name}_low"], table[f"{name}_high"] = zip(*ends, strict=True)
    return table


def settling_table(by_trace: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """One row per group of traces (all, right, wrong, each level): where belief settles, and the area under its curve.

    n_settled: traces whose greedy answer at the reasoning's end is their own. share_after: the mean share of the
    reasoning's tokens that come after belief has settled, 0 if it never does. area: that of the probability. Intervals:
    a bootstrap over problems. p: of share_after, right against wrong traces (two-sided Mann-Whitney), and by level
    (rank correlation, in the column of this name); nan for too few traces, and if problems have several samples.
    """
    groups = {"all": by_trace}
    groups |= {name: by_trace[by_trace["is_correct"] == verdict] for name, verdict in (("right", 1), ("wrong", 0))}
    levels = by_trace["level"].dropna().unique()
    groups |= {f"level {level}": by_trace[by_trace["level"] == level] for level in sorted(levels, key=str)}
    rows = []
    for name, group in groups.items():
        row = {"group": name, "n_traces": len(group), "n_settled": int(group["settled_after"].notna().sum())}
        row["n_settled_before"] = int((group["settled_after"] == 0).sum())
        for measure in ("share_after", "area", "n_sentences"):
            values = group.groupby("uid", sort=False)[measure].mean().to_numpy(float)
            row[measure] = mean(values)
            if measure != "n_sentences":
                row[f"{measure}_low"], row[f"{measure}_high"] = _interval(values, settings)
        rows.append(row)
    table = pd.DataFrame(rows).assign(rank_correlation=np.nan, p=np.nan)
    if by_trace["uid"].duplicated().any():  # these tests treat samples of one problem as independent
        return table
    right, wrong = groups["right"]["share_after"], groups["wrong"]["share_after"]
    if min(len(right), len(wrong)) > 1 and is_testable(len(right) + len(wrong), settings["confidence"]):
        table.loc[table["group"] == "wrong", "p"] = float(mannwhitneyu(right, wrong).pvalue)
    numbers = pd.to_numeric(by_trace["level"], errors="coerce")
    known = by_trace[numbers.notna()]
    if numbers.nunique() > 1 and known["share_after"].nunique() > 1 and is_testable(len(known), settings["confidence"]):
        found = spearmanr(numbers.dropna(), known["share_after"])
        table.loc[table["group"] == "all", ["rank_correlation", "p"]] = float(found.statistic), float(found.pvalue)
    return table


def agreement_table(by_sentence: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """One row per pair of measures: do they rank a trace's sentences alike?

    rank_correlation: Spearman's over a trace's sentences, mean over problems (of traces with at least LEAST_SENTENCES
    in which both vary), with a bootstrap interval over problems and the p of sign flips, adjusted by Holm. pooled: over
    all sentences, each measure as ranks within its trace, from 0 to 1. A sentence counts if both were measured.
    """
    rows = []
    for first, second in COMPARED:
        if not {first, second} <= {*by_sentence.columns}:
            continue
        sentences = by_sentence[by_sentence["sentence"] > 0].dropna(subset=[first, second])
        found: list[tuple[str, float]] = []
        for (uid, _), trace in sentences.groupby(["uid", "sample"], sort=False):
            if len(trace) >= LEAST_SENTENCES:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a measure that does not vary
                    found.append((uid, float(spearmanr(trace[first], trace[second]).statistic)))
        by_problem = pd.DataFrame(found, columns=["uid", "value"]).dropna().groupby("uid", sort=False)["value"].mean()
        values = by_problem.to_numpy(float)
        low, high = _interval(values, settings)
        ranks = sentences.groupby(["uid", "sample"], sort=False)[[first, second]].rank(pct=True)
        pooled = float(ranks[first].corr(ranks[second])) if len(ranks) > 2 else np.nan
        is_tested = is_testable(len(values), settings["confidence"])
        p = sign_flip_p(values, settings["n_resamples"], settings["seed"]) if is_tested else np.nan
        rows.append(
            {
                "first": first, "second": second, "n_problems": len(values), "rank_correlation": mean(values),
                "low": low, "high": high, "p": p, "pooled": pooled, "n_sentences": len(sentences),
            }
        )  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"].to_numpy(float)))


def experiment_table(by_sentence: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """One row per arm and measure: does hiding the sentence that the RFHs read most do more than hiding a similar one?

    most, little: means over problems, from traces of at least three sentences, if the sentence read most is hidden from
    the arm's heads, and if a sentence of similar length and place that is little read is hidden (most_and_little_read).
    measure: effect, what the trace's own answer loses, nats; changed, the share of greedy answers that change.
    difference: most minus little, with a bootstrap interval over problems, the p of sign flips, and Holm's correction.
    """
    found = []
    for (uid, _), trace in by_sentence.groupby(["uid", "sample"], sort=False):
        answer, sentences = trace["greedy"].iloc[-1], trace.iloc[1:]
        if len(sentences) < 3:
            continue
        ends = sentences["n_tokens"].cumsum()
        bounds = list(zip(ends - sentences["n_tokens"], ends, strict=True))
        chosen = list(most_and_little_read(bounds, sentences["read_rfh"].tolist()))
        for arm, suffix in ARMS.items():
            effects = sentences[f"effect{suffix}"].iloc[chosen].to_list()
            changed = (sentences[f"greedy_without{suffix}"].iloc[chosen] != answer).astype(float).to_list()
            found += [(uid, arm, "effect", *effects), (uid, arm, "changed", *changed)]
    columns = ["uid", "arm", "measure", "most", "little"]
    by_problem = pd.DataFrame(found, columns=columns).groupby(columns[:3], sort=False)[columns[3:]].mean()
    rows = []
    for (arm, measure), problems in by_problem.groupby(level=["arm", "measure"], sort=False):
        difference = (problems["most"] - problems["little"]).to_numpy(float)
        low, high = _interval(difference, settings)
        is_tested = is_testable(len(difference), settings["confidence"])
        p = sign_flip_p(difference, settings["n_resamples"], settings["seed"]) if is_tested else np.nan
        row = {"arm": arm, "measure": measure, "n_problems": len(problems), **problems.mean()}
        rows.append(row | {"difference": mean(difference), "low": low, "high": high, "p": p})
    names = ["arm", "measure", "n_problems", "most", "little", "difference", "low", "high", "p"]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(p_holm=holm(table["p"].to_numpy(float)))


def cost_table(by_trace: pd.DataFrame, agreement: pd.DataFrame, n_written: float) -> pd.DataFrame:
    """One row per measure: what it costs, and which cheaper measure agrees with it.

    n_read, n_written: tokens per sentence that the model reads and that it generates, mean over all sentences,
    including the one run of the whole trace from which a measure continues; passes: all of these, in runs of the whole
    trace. stand_in: the cheapest of the cheaper measures whose rank correlation with it has an interval above 0, empty
    if there is none; rank_correlation: of the two. n_written: for resampling, nan if nothing is resampled.
    """
    n_sentences, run = by_trace["n_sentences"].sum(), by_trace["n_run"].sum()
    read = {"read": run, "belief": run + by_trace["n_belief"].sum(), "effect": run + by_trace["n_suppression"].sum()}
    rows = []
    for name, label in SENTENCE_MEASURES.items():
        n_read = read.get(name.partition("_")[0], 0) / n_sentences
        written = n_written if name == "importance" else 0.0
        if not np.isnan(written):
            passes = (n_read + written) * n_sentences / run
            rows.append({"measure": name, "label": label, "n_read": n_read, "n_written": written, "passes": passes})
    table = pd.DataFrame(rows)
    passes = table.set_index("measure")["passes"]
    agreeing = agreement[(agreement["low"] > 0) & agreement[["first", "second"]].isin(passes.index).all(axis=1)]
    turned = agreeing.rename(columns={"first": "second", "second": "first"})
    both = pd.concat([agreeing, turned], ignore_index=True)
    both["cost"], most = both["second"].map(passes), both["first"].map(passes)
    cheapest = both[both["cost"] < most].sort_values(["cost", "rank_correlation"], ascending=[True, False])
    cheapest = cheapest.drop_duplicates("first")
    named = cheapest.rename(columns={"first": "measure", "second": "stand_in"})
    return table.merge(named[["measure", "stand_in", "rank_correlation"]], "left", on="measure")


def _interval(values: np.ndarray, settings: Mapping[str, Any]) -> tuple[float, float]:
    if len(values) < 2:
        return np.nan, np.nan
    low, high = bootstrap_interval(values, settings["n_resamples"], settings["confidence"], settings["seed"])
    return float(low), float(high)
