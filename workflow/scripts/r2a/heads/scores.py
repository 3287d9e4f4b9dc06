"""The scores of heads beyond focus (METHOD section 3), each a registered function."""

import numpy as np
from scipy.stats import kurtosis

from r2a.extensions import head_score

LEAST_SENTENCES = 4  # the kurtosis of fewer values says nothing
N_NEIGHBOURS = 4  # sentences right before the reader, which any local head attends to


@head_score(label="tracking: forward drift", store="attention")
def tracking(tracking: np.ndarray) -> np.ndarray:
    """Spearman correlation of the attention's centre in the reasoning with the answer token's index."""
    return tracking


@head_score(label="contribution: written of the reasoning", store="attention")
def contribution(contribution: np.ndarray) -> np.ndarray:
    """Norm of what a head writes from the reasoning's values, over that of what the layer's heads write together."""
    return contribution


@head_score(label="output: all that is written", store="attention")
def output_share(output_share: np.ndarray) -> np.ndarray:
    """Norm of what a head writes, over that of what the layer's heads write together; small if it is idle."""
    return output_share


@head_score(label="spread", store="attention")
def spread(spread: np.ndarray) -> np.ndarray:
    """Standard deviation of the attended position, in shares of the reasoning's length, mean over answer tokens."""
    return spread


@head_score(label="cue preference", store="attention")
def cue_preference(cue_preference: np.ndarray) -> np.ndarray:
    """Attention per cue token of the reasoning, over that per other token; 1 is no preference."""
    return cue_preference


@head_score(label="cue / sentence-initial", store="attention")
def cue_over_initial(cue_over_initial: np.ndarray) -> np.ndarray:
    """Attention per cue token, over that per other token that begins a sentence, where most cue words are."""
    return cue_over_initial


@head_score(label="receiver kurtosis", store="attention")
def receiver_kurtosis(sentence_mass: np.ndarray, sentence_bounds: np.ndarray) -> np.ndarray:
    """Excess kurtosis, over the reasoning's sentences, of the answer's attention per token.

    High if a few sentences receive all of it: m4 / m2^2 - 3, with moments divided by the number of sentences, of mean
    attention, without the N_NEIGHBOURS sentences next to the reader, as Bogdan et al. (2025, "Thought Anchors") compute
    it for later sentences; here the answer's tokens are the reader. It can reach about the number of sentences, so
    compare heads, not traces. nan for fewer than 4 sentences, or for even attention.
    """
    lengths = np.diff(sentence_bounds[sentence_bounds >= 0])
    lengths = lengths[: max(len(lengths) - N_NEIGHBOURS, 0)]
    if len(lengths) < LEAST_SENTENCES:
        return np.full(sentence_mass.shape[:2], np.nan)
    attention = sentence_mass[..., : len(lengths)].astype(np.float64) / lengths
    is_even = attention.std(-1) <= 1e-6 * attention.mean(-1)  # except for rounding
    return kurtosis(np.where(is_even[..., None], np.nan, attention), axis=-1)


@head_score(label="induction (random tokens)", store="diagnostics")
def induction(induction_repeats: np.ndarray) -> np.ndarray:
    """Mean attention from the second copy of a random block to the token after each one's first occurrence."""
    return induction_repeats


@head_score(label="induction (paper's form)", store="diagnostics")
def induction_in_text(induction_prompts: np.ndarray) -> np.ndarray:
    """Share of attention that follows the induction pattern of a text (Zhang et al. 2025; TransformerLens)."""
    return induction_prompts


@head_score(label="previous token", store="diagnostics")
def previous_token(previous_token: np.ndarray) -> np.ndarray:
    """Mean attention to the token before, on the second copy of a random block."""
    return previous_token


@head_score(label="retrieval", store="diagnostics")
def retrieval(retrieval: np.ndarray) -> np.ndarray:
    """Share of a needle's distinct tokens that a head copies, over successful runs (Wu et al. 2024)."""
    return retrieval
