"""What rollouts write in place of a sentence, and how similar it is (METHOD section 5)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from r2a.boxes import final_answer
from r2a.memory import by_tokens, in_batches
from r2a.models import load_model, load_tokenizer, read_manifest, text_of, token_pieces
from r2a.models.attention import SEAM
from r2a.sentences.branches import Branch, Branches, keep_run
from r2a.store import open_hdf5, provenance, read_parquet, write_parquet
from r2a.text.sentences import sentence_bounds
from r2a.traces import Bounds


def compare_rollouts(
    rollouts: Path, sentences: Path, manifest: Path, output: Path, settings: Mapping[str, Any], batch_tokens: int
) -> None:
    """Write one row per rollout: how it continues from a cut, and what it answers.

    Columns: uid, sample (of the trace), step (number of sentences before the cut), rollout, text (its first sentence;
    empty if it closes the reasoning at once), answer (the content of its box; empty if it has no valid one), n_tokens
    (generated), similarity (of its first sentence to the trace's own sentence there; nan if either is missing).
    The similarity is the cosine between the sentences' mean outputs of the last layer, each sentence read by itself,
    after the mean over all sentences is subtracted.
    """
    table = read_parquet(rollouts)
    tokenizer = load_tokenizer(read_manifest(manifest)["folder"])
    own: dict[tuple[str, int], list[str]] = {}
    with open_hdf5(sentences) as file:
        for number, (uid, sample) in enumerate(zip(file["uid"].asstr()[:], file["sample"][:].tolist(), strict=True)):
            starts = [int(place) for place in file["text_bounds"][number] if place >= 0]
            reasoning = file["reasoning"].asstr()[number]
            own[uid, sample] = [reasoning[a:b] for a, b in pairwise(starts)]
    rows: list[dict[str, Any]] = []
    originals: list[str] = []
    for row in table.itertuples():
        sample, step = map(int, row.condition.split("."))
        ids, cut = [*row.prompt_token_ids, *row.completion_token_ids], len(row.prompt_token_ids)
        written = ids[cut : max(cut, Bounds.of(row.bounds).think_close)]
        first = sentence_bounds(token_pieces(tokenizer, written), 0)[1] if written else 0
        answer = final_answer(row.answer_text) if row.is_valid else None
        text = text_of(tokenizer, written[:first])
        rows.append(
            {
                "uid": row.uid, "sample": sample, "step": step, "rollout": row.sample, "text": text,
                "answer": " ".join((answer or "").split()), "n_tokens": len(row.completion_token_ids),
            }
        )  # fmt: skip
        of_trace = own[row.uid, sample]
        originals.append(of_trace[step] if step < len(of_trace) else "")
    found = pd.DataFrame(rows)
    texts = sorted({text for text in [*found["text"], *originals] if text.strip()})
    model = load_model(read_manifest(manifest), SEAM)
    vectors = dict(zip(texts, _directions(model, tokenizer, texts, batch_tokens), strict=True))
    nothing = np.nan * next(iter(vectors.values()), np.zeros(1))
    pairs = zip(found["text"], originals, strict=True)
    found["similarity"] = [float(vectors.get(a, nothing) @ vectors.get(b, nothing)) for a, b in pairs]
    write_parquet(output, found, provenance(settings, [rollouts, sentences, manifest]))


@torch.no_grad()
def _directions(model: Any, tokenizer: Any, texts: Sequence[str], batch_tokens: int) -> np.ndarray:
    """The texts' mean outputs of the last layer, minus the mean over all texts, as unit vectors [text, d_model]."""
    encoded = [tuple(tokenizer.encode(text, add_special_tokens=False)) for text in texts]
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    kept = keep_run(model, [first])

    def means(numbers: Sequence[int], _budget: int) -> np.ndarray:
        read = Branches(model, kept, [Branch(1, encoded[number]) for number in numbers]).read()
        return np.stack([states.float().mean(0).cpu().numpy() for states in read])

    parts = []
    for numbers, found in in_batches(range(len(texts)), by_tokens(list(map(len, encoded))), batch_tokens, means):
        if found is None:
            raise torch.OutOfMemoryError(f"a sentence of {len(encoded[numbers[0]])} tokens does not fit into memory")
        parts.append(found)
    vectors = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
    vectors = vectors - vectors.mean(0)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
