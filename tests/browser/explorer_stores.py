"""Stores of an invented study for the explorer: any text of any length, with known attention."""

from pathlib import Path

import numpy as np
import pandas as pd

from r2a.explorer import write_explorer
from r2a.formats.known import THINK_CLOSE, THINK_OPEN
from r2a.models import load_tokenizer
from r2a.store import add_array, add_axis, add_column, new_hdf5, provenance, write_csv, write_json, write_parquet
from r2a.traces import Bounds

MODEL = Path(__file__).parents[2] / "resources/models/tiny-qwen"
ORIGIN = provenance({"model": "m", "dataset": "d"})
N_LAYERS = 2


def write_study(
    folder: Path,
    texts: dict[str, tuple[str, str, str]],
    models: tuple[str, ...] = ("m",),
    n_heads: int = 3,
    patched: str = "",
) -> Path:
    """Write an explorer with one problem per uid, each a (prompt, reasoning, answer) for all models; return its page.

    The last head (1.2, of 3 in each of 2 layers) is the only RFH. It pays half of every answer token's attention to the
    first token of the reasoning, and half to the token itself; the other heads pay all to the first token of the trace.
    patched: the uid of a problem whose pair was patched.
    """
    tokenizer = load_tokenizer(MODEL)
    marks = [tokenizer.encode(mark, add_special_tokens=False) for mark in (THINK_OPEN, THINK_CLOSE)]
    rows, cases = [], []
    for uid, parts in texts.items():
        prompt, reasoning, answer = (tokenizer.encode(part, add_special_tokens=False) for part in parts)
        pieces = [[tokenizer.bos_token_id], prompt, marks[0], reasoning, marks[1], answer, [tokenizer.eos_token_id]]
        bounds = Bounds.of(np.cumsum([0, *map(len, pieces)]))
        ids = [token for piece in pieces for token in piece]
        cases.append((ids, bounds))
        rows.append(
            {
                "uid": uid, "condition": "with_reasoning", "decoding": "greedy", "sample": 0,
                "prompt_token_ids": ids[: bounds.reasoning], "completion_token_ids": ids[bounds.reasoning :],
                "bounds": bounds, "is_valid": True, "invalid_reason": "",
            }
        )  # fmt: skip
    traces = pd.DataFrame(rows)
    grades = traces[["uid", "condition", "decoding", "sample"]].assign(answer="yes", is_correct=True, reason="string")
    problems = traces[["uid"]].assign(problem=[parts[0] for parts in texts.values()], answer="yes", area="area")
    problems["pair"] = problems["uid"].where(problems["uid"] == patched)
    places = np.divmod(np.arange(N_LAYERS * n_heads), n_heads)
    heads = pd.DataFrame({"layer": places[0], "head": places[1], "a2r": np.linspace(0, 1, len(places[0]))})
    heads["is_rfh"] = heads["a2r"] == 1
    heads = heads.assign(a2r_low=heads["a2r"] * 0.9, a2r_high=heads["a2r"], a2r_n=len(rows))
    stores = folder / "stores"
    write_parquet(stores / "datasets/d.parquet", problems, ORIGIN)
    inputs = {"datasets": [stores / "datasets/d.parquet"], "manifests": []}
    for model in models:
        origin = provenance({"model": model, "dataset": "d"})
        paths = {name: stores / name / model / "d.parquet" for name in ("traces", "grades", "heads")}
        for name, table in {"traces": traces, "grades": grades, "heads": heads}.items():
            write_parquet(paths[name], table, origin)
        paths |= {name: stores / name / model / "d.h5" for name in ("attention", "rows", "sentences")}
        _write_attention(paths["attention"], rows, cases, origin, n_heads)
        _write_rows(paths["rows"], rows, cases, origin, n_heads)
        _write_sentences(paths["sentences"], rows, cases, origin)
        paths |= {"importance": stores / f"tables/{model}/d.csv", "rollouts": stores / f"resampling/{model}/d.parquet"}
        _write_resampled(paths, rows, cases, origin)
        if patched:
            paths |= {"pairs": stores / f"pairs/{model}/d.parquet", "patching": stores / f"patching/{model}/d.h5"}
            _write_patched(paths, patched, cases, origin)
        write_json(stores / f"models/{model}.json", {"folder": str(MODEL)})
        inputs["manifests"].append(stores / f"models/{model}.json")
        for name, path in paths.items():
            inputs.setdefault(name, []).append(path)
    page = folder / "explorer/index.html"
    settings = {"study": folder.name, "is_toy": True, "n_problems": 1000}
    settings |= {"model_labels": {model: model.upper() for model in models}, "dataset_labels": {"d": "D"}}
    write_explorer(inputs, page, folder / "explorer/data", settings)
    return page


def sentence_bounds(bounds):
    """The reasoning in sentences of ten tokens."""
    return [*range(bounds.reasoning, bounds.think_close, 10), bounds.think_close]


def _write_attention(path, rows, cases, origin, n_heads):
    n_most = max(len(sentence_bounds(bounds)) for _, bounds in cases)
    with new_hdf5(path, origin) as file:
        axes = {
            "trace": len(rows),
            "layer": N_LAYERS,
            "head": n_heads,
            "sentence": n_most - 1,
            "sentence_bound": n_most,
        }
        for name, size in axes.items():
            add_axis(file, name, range(size))
        for name in ("uid", "condition", "sample"):
            add_column(file, name, "trace", [row[name] for row in rows])
        add_column(file, "is_left_out", "trace", [0] * len(rows))
        mass = add_array(file, "sentence_mass", ("trace", "layer", "head", "sentence"), "share")
        kept = add_array(file, "sentence_bounds", ("trace", "sentence_bound"), "token", "int64", fill=-1)
        for number, (_, bounds) in enumerate(cases):
            cut = sentence_bounds(bounds)
            kept[number, : len(cut)] = cut
            mass[number, :, :, : len(cut) - 1] = 0
            mass[number, 1, -1, 0] = 0.5


def _write_sentences(path, rows, cases, origin):
    """The first sentence adds 2 nats to the answer and the last takes 1 away; the first trace was left out.

    In the second trace, all sentences serve later ones equally, except that the first serves the last one most.
    """
    n_most = max(len(sentence_bounds(bounds)) for _, bounds in cases)
    with new_hdf5(path, origin) as file:
        axes = {"trace": len(rows), "answer": 2, "arm": 3, "step": n_most, "sentence": n_most - 1}
        more = {"sentence_bound": n_most, "from": n_most - 1, "to": n_most - 1}
        for name, size in (axes | more).items():
            add_axis(file, name, ["all", "rfh", "matched"] if name == "arm" else range(size))
        for name in ("uid", "sample"):
            add_column(file, name, "trace", [row[name] for row in rows])
        add_column(file, "is_left_out", "trace", [number == 0 for number in range(len(rows))])
        kept = add_array(file, "sentence_bounds", ("trace", "sentence_bound"), "token", "int64", fill=-1)
        belief = add_array(file, "belief", ("trace", "answer", "step"), "nat")
        effect, read = (add_array(file, name, ("trace", "arm", "sentence"), "nat") for name in ("effect", "read"))
        greedy = add_array(file, "greedy", ("trace", "step"), "text", "S64", fill=b"")
        without = add_array(file, "greedy_without", ("trace", "arm", "sentence"), "text", "S64", fill=b"")
        matrix = add_array(file, "matrix", ("trace", "from", "to"), "nat")
        for number, (_, bounds) in enumerate(cases):
            n_sentences = len(cut := sentence_bounds(bounds)) - 1
            kept[number, : n_sentences + 1] = cut
            greedy[number, : n_sentences + 1] = [b"east", *[b"west"] * n_sentences]
            without[number, :, :n_sentences] = np.array([b"north", b"west", b"west"])[:, None]
            if number == 1:
                matrix[number, :n_sentences, :n_sentences] = np.triu(np.full((n_sentences, n_sentences), 0.5), 1)
                matrix[number, 0, n_sentences - 1] = 4
            belief[number, :, : n_sentences + 1] = [-3, *[-1] * (n_sentences - 1), -2]
            effect[number, :, :n_sentences] = 0.25
            read[number, :, :n_sentences] = 0.125


def _write_resampled(paths, rows, cases, origin):
    """In the first measured trace, the first sentence was resampled: it matters by 3 nats; 2 of 3 say north."""
    uid = rows[min(1, len(rows) - 1)]["uid"]
    importance = pd.DataFrame({"uid": [uid], "sample": [0], "sentence": [1], "importance": [3.0]})
    write_csv(paths["importance"], importance, origin)
    answers = pd.DataFrame({"step": [0, 0, 0, 1], "answer": ["north", "west", "north", "west"]})
    write_parquet(paths["rollouts"], answers.assign(uid=uid, sample=0), origin)


def _write_rows(path, rows, cases, origin, n_heads):
    with new_hdf5(path, origin) as file:
        add_axis(file, "trace", [f"trace_{number}" for number in range(len(rows))])
        for name in ("uid", "sample"):
            add_column(file, name, "trace", [row[name] for row in rows])
        for number, (ids, bounds) in enumerate(cases):
            case = file.create_group(f"trace_{number}")
            answer = list(range(bounds.answer, bounds.eos))
            add_axis(case, "head", [f"{layer}.{head}" for layer in range(N_LAYERS) for head in range(n_heads)])
            add_axis(case, "row", answer)
            add_axis(case, "key", range(len(ids)))
            layers, heads = np.divmod(np.arange(N_LAYERS * n_heads), n_heads)
            ranks = np.arange(len(layers))[::-1]  # the last head is the best
            for name, column in {"layer": layers, "head_in_layer": heads, "rank": ranks}.items():
                add_column(case, name, "head", column)
            add_column(case, "is_cue", "key", [position == bounds.reasoning + 1 for position in range(len(ids))])
            attention = np.zeros((len(layers), len(answer), len(ids)), np.float16)
            attention[:-1, :, 0] = 1
            for k, position in enumerate(answer):
                attention[-1, k, [bounds.reasoning, position]] = 0.5
            add_array(case, "attention", ("head", "row", "key"), "share", "float16")[:] = attention
            add_array(case, "rfh_mean", ("row", "key"), "share")[:] = attention[-1]
            add_array(case, "all_mean", ("row", "key"), "share")[:] = attention.mean(0, dtype=np.float32)


def _write_patched(paths, pair, cases, origin):
    """Two tokens of the first trace are patched: the first restores everything in layer 0, the second in layer 1."""
    ids, bounds = cases[0]
    row = {"pair": pair, "probe": "plain", "answer_a": "west", "answer_b": "east"}
    for run in ("clean", "corrupted"):
        row |= {f"{run}_ids": ids, f"{run}_positions": [bounds.think_close - 1, bounds.eos - 1]}
    write_parquet(paths["pairs"], pd.DataFrame([row]), origin)
    with new_hdf5(paths["patching"], origin) as file:
        add_axis(file, "probe", ["plain"])
        group = file.create_group("plain")
        axes = {"pair": [pair], "role": ["answer", "final"], "key_role": ["answer"], "layer": range(N_LAYERS)}
        for name, labels in axes.items():
            add_axis(group, name, labels)
        add_column(group, "is_used", "pair", [1])
        effects = {"clean_to_corrupted": np.eye(N_LAYERS), "unrelated_answer": np.zeros((N_LAYERS, 1))}
        for patch, effect in effects.items():  # [pair, layer, role]
            group[f"resid_pre/{patch}/normalized_logit_diff"] = effect[None].astype(np.float32)
