"""The trace explorer: a static page that shows the stores' contents trace by trace."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r2a.models import load_tokenizer, read_manifest, token_pieces
from r2a.progress import Progress, logger
from r2a.roles import ALL_HEADS, DIRECTIONS, RFH
from r2a.store import axis_labels, filled, labelled, open_hdf5, read_parquet, read_traces, trace_keys, write_text
from r2a.traces import TRACE_KEYS

PAGE = Path(__file__).parent
KATEX = PAGE / "katex"
FONT = re.compile(r"src:url\(fonts/([\w-]+\.woff2)\)[^;}]*")
EFFECT = "normalized_logit_diff"
LIMIT = 8_000_000  # bytes of a trace's file, which the page loads whole; a tab holds many
N_ROWS = 8  # the least number of answer tokens whose attention is shown, if need be with fewer heads
FLOAT16 = 8 / 3  # bytes of a number, in base64
QUESTION = 1000  # characters of a question in the list; its trace has all of them
MEANS = {"rfhs": "rfh_mean", "all": "all_mean"}  # over heads, in the store of rows
NAMES = ("model", "model_label", "dataset", "dataset_label")


def write_explorer(inputs: Mapping[str, Sequence[Path]], index: Path, data: Path, settings: Mapping[str, Any]) -> None:
    """Write the page to `index`, and the data that it loads on demand into the folder `data` beside it.

    inputs: lists of paths, named as in the rule: datasets, manifests (one per dataset or model); traces and grades (of
    one decoding, one per model, dataset and condition); attention, heads, rows, sentences, pairs and patching (at most
    one per model and dataset). settings: n_problems (the most that are shown for each model and dataset, those with
    attention rows first), model_labels, dataset_labels, is_toy and study. The data are scripts that pass JSON, with
    arrays as float16 in base64, because a page that is opened from disk can load only scripts.

    A trace's file has at most LIMIT bytes. For a longer trace or a larger model, it has fewer answer tokens and heads;
    their values are exact, and the page says how many there are.
    """
    # JSON has null for a missing value
    tables = {path.stem: read_parquet(path).astype(object) for path in inputs["datasets"]}
    problems = {name: table.where(table.notna(), None).set_index("uid", drop=False) for name, table in tables.items()}
    folders = {path.stem: read_manifest(path)["folder"] for path in inputs["manifests"]}
    stores: dict[tuple[str, ...], dict[str, list[Path]]] = {}
    for name, paths in inputs.items():
        for path in filled(paths) if name not in ("datasets", "manifests") else ():
            origin = labelled(path, settings)
            stores.setdefault(tuple(origin[name] for name in NAMES), {}).setdefault(name, []).append(path)
    collections = []
    with Progress("explorer: models and datasets", len(stores)) as progress:
        for number, (names, there) in enumerate(stores.items()):
            named = dict(zip(NAMES, names, strict=True))
            collection = _Collection(there, problems[named["dataset"]], folders[named["model"]], settings["n_problems"])
            collections.append({**named, "folder": str(number), "traces": collection.write(data, str(number))})
            progress.advance()
    study = {"study": settings["study"], "is_toy": settings["is_toy"], "collections": collections}
    _hand_over(data / "index.js", "index", study)
    formulas = f"{(KATEX / 'katex.min.js').read_text()}\nr2aExplorer.take('katex',{json.dumps(_katex_style())});\n"
    write_text(data / "katex.js", formulas)
    write_text(index, page())
    _list_studies(index.parents[2])


def _list_studies(results: Path) -> None:
    """Write `explorers.js`, the names of the studies that have an explorer, for each one's page to choose from.

    Several studies may write it at the same time: each looks again after writing, so the last one has seen all.
    """
    listed: list[str] = []
    while (found := sorted(path.parents[1].name for path in results.glob("*/explorer/index.html"))) != listed:
        _hand_over(results / "explorers.js", "studies", found)
        listed = found


def page() -> str:
    """The page with its style and script inlined; only that script, and what it loads, can run."""
    html, style, script = ((PAGE / f"explorer.{suffix}").read_text() for suffix in ("html", "css", "js"))
    texts = (style, _katex_style(), script)
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts]
    policy = (  # KaTeX sets widths of roots and arrows in attributes
        f"default-src 'none'; style-src {hashes[0]} {hashes[1]}; style-src-attr 'unsafe-inline'; "
        f"script-src {hashes[2]} 'strict-dynamic'; "
        "img-src blob: data:; font-src data:"
    )
    return html.replace("{policy}", policy).replace("{style}", style).replace("{script}", script)


def _katex_style() -> str:
    """KaTeX's style with its fonts inlined, because a page that is opened from disk cannot load font files."""

    def inside(found: re.Match[str]) -> str:
        font = base64.b64encode((KATEX / "fonts" / found[1]).read_bytes()).decode()
        return f'src:url(data:font/woff2;base64,{font}) format("woff2")'

    return FONT.sub(inside, (KATEX / "katex.min.css").read_text())


class _Collection:
    """The traces of one model on one dataset, and all measurements on them."""

    def __init__(
        self, stores: Mapping[str, Sequence[Path]], problems: pd.DataFrame, model: str | None, n_problems: int
    ) -> None:
        """stores: of traces and grades one per condition, of others one. model: the folder of its tokenizer; None for a
        model known only by its endpoint.
        """
        self.stores, self.problems, self.n_problems = stores, problems, n_problems
        self.tokenizer = load_tokenizer(model) if model else None
        self.traces = read_traces(stores["traces"])
        self.grades = read_traces(stores["grades"]).set_index(list(TRACE_KEYS)) if "grades" in stores else None

    def write(self, data: Path, folder: str) -> list[dict[str, Any]]:
        """Write one file per trace and pair, and one for the heads; return the entries of the list of traces."""
        cases, sentences, measures = dict(self._cases()), dict(self._sentences()), dict(self._measures())
        uids = list(dict.fromkeys([*(uid for uid, *_ in cases), *self.traces["uid"]]))[: self.n_problems]
        pairs = {}
        for number, (pair, effects) in enumerate(self._pairs()):
            _hand_over(data / folder / f"pair{number}.js", f"{folder}/pair{number}", effects)
            pairs[pair] = number
        _hand_over(data / folder / "heads.js", f"{folder}/heads", self._heads())
        listed = []
        for number, row in enumerate(self.traces[self.traces["uid"].isin(uids)].to_dict("records")):
            place = (row["uid"], row["condition"], row["sample"])
            problem, verdict = self.problems.loc[row["uid"]], self._verdict(row)
            shown = {"reference": problem["answer"], **verdict, **self._text(row)}
            shown |= sentences.get(place, {}) | measures.get(place, {})
            if place in cases:
                shown |= self._rows(cases[place], LIMIT - len(_script("", shown)))
            _hand_over(data / folder / f"{number}.js", f"{folder}/{number}", shown)
            listed.append(
                {
                    "uid": row["uid"], "condition": row["condition"], "sample": row["sample"],
                    "verdict": verdict["verdict"], "area": problem["area"], "question": problem["problem"][:QUESTION],
                    "has_rows": place in cases, "has_matrix": "matrix" in shown, "pair": pairs.get(problem.get("pair")),
                }
            )  # fmt: skip
        logger.info(
            f"{self.stores['traces'][0].parent}: {len(listed)} traces of {len(uids)} problems, {len(cases)} with rows"
        )
        return listed

    def _verdict(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """verdict: right, wrong, ungraded or invalid; reason: why; answer: what was extracted."""
        if not row["is_valid"]:
            return {"verdict": "invalid", "reason": row["invalid_reason"], "answer": None}
        if self.grades is None:
            return {"verdict": "ungraded", "reason": "no reference", "answer": None}
        grade = self.grades.loc[tuple(row[key] for key in TRACE_KEYS)]
        verdict = "ungraded" if pd.isna(grade["is_correct"]) else "right" if grade["is_correct"] else "wrong"
        answer = None if pd.isna(grade["answer"]) else grade["answer"]
        return {"verdict": verdict, "reason": grade["reason"], "answer": answer}

    def _text(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Tokens and segment bounds; without a tokenizer, prompt, reasoning and answer are one token each."""
        if self.tokenizer is None:
            reasoning = row["completion_text"].removesuffix(row["answer_text"])
            return {
                "tokens": [row["prompt_text"], reasoning, row["answer_text"]],
                "bounds": [0, 0, 1, 1, 2, 2, 3, 3],
            }
        ids = [*row["prompt_token_ids"], *row["completion_token_ids"]]
        return {"tokens": token_pieces(self.tokenizer, ids), "bounds": row["bounds"]}

    def _cases(self) -> Iterator[tuple[tuple[str, str, int], str]]:
        """The traces whose answer tokens' attention rows were kept, and the names of their groups in the store."""
        if "rows" not in self.stores:
            return
        with open_hdf5(self.stores["rows"][0]) as file:
            places = zip(axis_labels(file, "trace"), file["uid"].asstr()[:], file["sample"][:], strict=True)
            for name, uid, sample in places:
                yield (uid, "with_reasoning", int(sample)), name

    def _rows(self, name: str, room: float) -> dict[str, Any]:
        """A trace's kept attention rows: as many, evenly spaced, as fit into `room` bytes beside the heads.

        Heads are shown in the order of their ranks, as many as leave room for N_ROWS rows; n_heads is how many were
        kept.
        """
        with open_hdf5(self.stores["rows"][0]) as file:
            case = file[name]
            kept, is_cue = case["row"][:], case["is_cue"][:]
            n_shares = 0.95 * room / FLOAT16 / len(is_cue)  # rows of one head; the rest is for lists and names
            ranked = np.argsort(case["rank"][:], kind="stable")
            ranked = ranked[: max(1, int(n_shares / min(N_ROWS, len(kept))) - len(MEANS))]
            n_rows = min(len(kept), max(1, int(n_shares / (len(ranked) + len(MEANS)))))
            rows = np.linspace(0, len(kept) - 1, n_rows).round().astype(int)
            layers, heads = case["layer"][:], case["head_in_layer"][:]
            found = {source: case[mean][rows] for source, mean in MEANS.items()}
            found = {f"{layers[k]}.{heads[k]}": case["attention"][k][rows] for k in ranked} | found
            return {
                "rows": kept[rows],
                "n_heads": len(layers),
                "cues": np.flatnonzero(is_cue),
                "attention": {source: _array(shares) for source, shares in found.items()},
            }

    def _sentences(self) -> Iterator[tuple[tuple[str, str, int], dict[str, Any]]]:
        """The answer's attention to each sentence of the reasoning [source, sentence]; sources: their names.

        The means over the Reasoning-Focus Heads and over all heads come first, then single heads. If all heads would
        take more than a quarter of a file, only those that attend most to the reasoning are shown; n_heads is how many
        have attention.
        """
        if "attention" not in self.stores:
            return
        is_rfh = self._is_rfh()
        with open_hdf5(self.stores["attention"][0]) as file:
            left_out = file["is_left_out"][:]
            heads = [f"{layer}.{head}" for layer in axis_labels(file, "layer") for head in axis_labels(file, "head")]
            for number, place in enumerate(trace_keys(file)):
                if left_out[number]:
                    continue
                bounds = file["sentence_bounds"][number]
                bounds = bounds[bounds >= 0]
                mass = file["sentence_mass"][number][..., : len(bounds) - 1].reshape(-1, len(bounds) - 1)
                attends = np.flatnonzero(np.isfinite(mass).all(1))
                most = attends[np.argsort(-mass[attends].sum(1), kind="stable")]
                shown = np.sort(most[: max(1, int(LIMIT / 4 / FLOAT16 / max(1, mass.shape[1])) - len(MEANS))])
                means = [_mean(mass[[k for k in attends if heads[k] in is_rfh]]), _mean(mass[attends])]
                yield (
                    place,
                    {
                        "sentences": bounds,
                        "sources": [*MEANS, *(heads[k] for k in shown)],
                        "n_heads": len(attends),
                        "sentence_mass": _array(np.vstack([*means, mass[shown]])),
                    },
                )

    def _measures(self) -> Iterator[tuple[tuple[str, str, int], dict[str, Any]]]:
        """How much the answer depends on each sentence of the reasoning, one list per measure; and sentences' bounds.

        greedy, belief [step]: the answer after so many sentences, and the log-probability of the trace's own.
        greedy_without: by arm, the answer without each sentence. matrix [from, to]: which sentences serve which, if it
        was measured and takes at most a quarter of a file; otherwise is_matrix_too_large. rollouts: for a resampled
        trace, (answer, how often) by step.
        """
        if "sentences" not in self.stores:
            return
        importance, rollouts = self._importance(), self._rollouts()
        with open_hdf5(self.stores["sentences"][0]) as file:
            arms = axis_labels(file, "arm")
            everywhere, rfh = arms.index(ALL_HEADS), arms.index(RFH)
            for number, (uid, sample) in enumerate(zip(file["uid"].asstr()[:], file["sample"][:], strict=True)):
                if file["is_left_out"][number]:
                    continue
                bounds = file["sentence_bounds"][number]
                bounds = bounds[bounds >= 0]
                n_sentences = len(bounds) - 1
                measures = {
                    "belief_change": np.diff(file["belief"][number, 0, : n_sentences + 1]),
                    "effect": file["effect"][number, everywhere, :n_sentences],
                    "effect_rfh": file["effect"][number, rfh, :n_sentences],
                    "read_rfh": file["read"][number, rfh, :n_sentences],
                }
                found = {
                    "sentences": bounds, "measures": measures, "belief": file["belief"][number, 0, : n_sentences + 1],
                    "greedy": [text.decode() for text in file["greedy"][number, : n_sentences + 1]],
                }  # fmt: skip
                found["greedy_without"] = {
                    arm: [text.decode() for text in file["greedy_without"][number, arms.index(arm), :n_sentences]]
                    for arm in (ALL_HEADS, RFH)
                }
                serves = file["matrix"][number, :n_sentences, :n_sentences]
                if np.isfinite(serves).any():
                    found["is_matrix_too_large"] = serves.size * FLOAT16 > LIMIT / 4
                    found |= {} if found["is_matrix_too_large"] else {"matrix": _array(serves)}
                if (uid, int(sample)) in importance:
                    measures["importance"] = importance[uid, int(sample)].reindex(range(1, n_sentences + 1)).to_numpy()
                    found["rollouts"] = rollouts[uid, int(sample)]
                yield (uid, "with_reasoning", int(sample)), found

    def _importance(self) -> dict[tuple[str, int], pd.Series]:
        """The importance of each sentence of each resampled trace, by the sentence's number from 1."""
        if "importance" not in self.stores:
            return {}
        table = pd.read_csv(self.stores["importance"][0], dtype={"uid": str})
        return {key: rows.set_index("sentence")["importance"] for key, rows in table.groupby(["uid", "sample"])}

    def _rollouts(self) -> dict[tuple[str, int], dict[int, list[tuple[str, int]]]]:
        """By resampled trace and number of sentences before the cut: (answer, how often), the most frequent first."""
        if "rollouts" not in self.stores:
            return {}
        found: dict[tuple[str, int], dict[int, list[tuple[str, int]]]] = {}
        for (uid, sample, step), rows in read_parquet(self.stores["rollouts"][0]).groupby(["uid", "sample", "step"]):
            counted = rows["answer"].value_counts(sort=True)
            found.setdefault((uid, sample), {})[int(step)] = [(str(answer), int(n)) for answer, n in counted.items()]
        return found

    def _is_rfh(self) -> set[str]:
        """The Reasoning-Focus Heads, as layer.head."""
        heads = self._heads()
        places = zip(heads.get("layer", ()), heads.get("head", ()), heads.get("is_rfh", ()), strict=True)
        return {f"{layer:.0f}.{head:.0f}" for layer, head, is_rfh in places if is_rfh}

    def _heads(self) -> dict[str, Any]:
        """The numbers of the table of heads, one list per column."""
        if "heads" not in self.stores:
            return {}
        table = read_parquet(self.stores["heads"][0]).sort_values(["layer", "head"])
        return {name: table[name].astype(float).round(5) for name in table.select_dtypes(["number", "bool"])}

    def _pairs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """For every pair patched under the first probe: its tokens by role, and every patch's effect [layer, role]."""
        if "patching" not in self.stores or self.tokenizer is None:
            return
        rows = read_parquet(self.stores["pairs"][0])
        with open_hdf5(self.stores["patching"][0]) as file:
            probe = axis_labels(file, "probe")[0]
            rows, of_probe = rows[rows["probe"] == probe].set_index("pair"), file[probe]
            roles, layers = axis_labels(of_probe, "role"), axis_labels(of_probe, "layer")
            key_places = [roles.index(role) for role in axis_labels(of_probe, "key_role")]
            for number, pair in enumerate(axis_labels(of_probe, "pair")):
                row = rows.loc[pair]
                tokens = {
                    run: token_pieces(self.tokenizer, row[f"{run}_ids"][row[f"{run}_positions"]])
                    for run in ("clean", "corrupted")
                }
                effects = {}
                for component in sorted(of_probe.keys() & {"resid_pre", "resid_mid", "attn_out", "mlp_out"}):
                    for patch, measured in of_probe[component].items():
                        found = measured[EFFECT][number]
                        whole = np.full((layers[-1] + 1, len(roles)), np.nan, np.float32)
                        columns = key_places if patch not in DIRECTIONS else range(len(roles))
                        whole[np.ix_(layers, columns)] = found
                        effects[f"{component}, {patch}"] = _array(whole)
                yield (
                    pair,
                    {
                        "pair": pair, "probe": probe, "roles": roles, "tokens": tokens, "effects": effects,
                        "answers": [row["answer_a"], row["answer_b"]], "is_used": bool(of_probe["is_used"][number]),
                    },
                )  # fmt: skip


def _array(values: np.ndarray) -> dict[str, Any]:
    """An array with two axes, in the form that the page reads."""
    return {"shape": values.shape, "float16": base64.b64encode(np.ascontiguousarray(values, "<f2").tobytes()).decode()}


def _mean(mass: np.ndarray) -> np.ndarray:
    """The mean over heads [head, sentence]; nan if there are none."""
    return mass.mean(0, dtype=np.float64) if len(mass) else np.full(mass.shape[1], np.nan)


def _hand_over(path: Path, name: str, content: Mapping[str, Any] | Sequence[str]) -> None:
    write_text(path, _script(name, content))


def _script(name: str, content: Mapping[str, Any] | Sequence[str]) -> str:
    """A script that hands `content` to the page under a name. JSON is a JavaScript literal, so it runs nothing."""
    text = json.dumps(content, default=_plain, allow_nan=False, separators=(",", ":"))
    return f"r2aExplorer.take({json.dumps(name)},{text});\n"


def _plain(value: Any) -> Any:
    """What json does not know: arrays, columns and numpy's numbers; nan becomes null."""
    if isinstance(value, pd.Series | np.ndarray):
        return [None if isinstance(item, float) and np.isnan(item) else item for item in value.tolist()]
    return value.item()
