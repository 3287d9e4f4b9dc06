"""The effect of a patch on the answer (METHOD section 4), in float32 from float32 logits."""

import torch

METRICS = {
    "normalized_logit_diff": "0 nothing changed, 1 the clean answer fully restored",
    "logit_diff": "logit of answer a minus logit of answer b",
    "logit_a": "logit", "logit_b": "logit",
    "log_probability_a": "nat", "log_probability_b": "nat",
    "probability_a": "probability", "probability_b": "probability",
    "rank_a": "rank, 1 is the most probable", "rank_b": "rank, 1 is the most probable",
    "is_flipped": "1 where the most probable token is answer a, and was not before",
}  # fmt: skip


def logit_diff(logits: torch.Tensor, answer_a: int, answer_b: int) -> torch.Tensor:
    """logit(a) - logit(b) from logits [..., vocabulary]."""
    return logits[..., answer_a] - logits[..., answer_b]


def patch_metrics(
    patched: torch.Tensor, clean: torch.Tensor, corrupted: torch.Tensor, answer_a: int, answer_b: int
) -> dict[str, torch.Tensor]:
    """Every metric of METRICS for patched logits [..., vocabulary], each float32 [...].

    clean, corrupted: the last logits [vocabulary] of the two unpatched runs.
    """
    base, whole = (float(logit_diff(run.float(), answer_a, answer_b)) for run in (corrupted, clean))
    patched = patched.float()
    log_probabilities = patched.log_softmax(-1)
    found: dict[str, torch.Tensor] = {"logit_diff": logit_diff(patched, answer_a, answer_b)}
    found["normalized_logit_diff"] = (found["logit_diff"] - base) / (whole - base)
    for side, answer in (("a", answer_a), ("b", answer_b)):
        found[f"logit_{side}"] = patched[..., answer]
        found[f"log_probability_{side}"] = log_probabilities[..., answer]
        found[f"probability_{side}"] = log_probabilities[..., answer].exp()
        found[f"rank_{side}"] = (patched > patched[..., answer, None]).sum(-1).float() + 1
    was_a = int(corrupted.argmax()) == answer_a
    found["is_flipped"] = ((patched.argmax(-1) == answer_a) & (not was_a)).float()
    return found
