"""Time of belief curves and of suppression, compared with the work that they cannot avoid and with other ways.

    make bench-sentences        writes results/benchmarks/sentences.csv and prints its ratios

A random Qwen2 with the attention of R1-Distill-Qwen-1.5B in a few narrow layers, in float32 on one thread. Seconds are
the thread's CPU time, which other work hardly affects; each is the best of PASSES. All sentences of a trace have equal
length; a tail consists of what closes the reasoning and opens the answer, and the answer.

belief       forward  one forward pass over the reasoning, without logits
             tails    one forward pass over the tails' own tokens, without the reasoning before them
             ours     the kept run and all S + 1 tails, with log-probabilities and greedy answers
             naive    a forward pass over reasoning and tail for each of the S + 1
             vllm     only the greedy answers, by vLLM with prefix caching; if it is installed
suppression  forward  one forward pass over reasoning and tail
             limit    for each sentence, transformers' forward pass over what follows it, with kept keys and values
             ours     the kept run and the effect of every sentence, hidden in all heads
             naive    for each sentence, a forward pass over the whole trace with transformers' eager attention, whose
                      mask hooks change layer by layer, as chosen heads require
             masked   the same with torch's fused attention and one mask for all heads, which is faster

Naive ways are measured on every NTH case, and the time is multiplied by NTH.
"""

import argparse
import csv
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PASSES, NTH = 2, 6
SIZES = {
    "vocab_size": 1000, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 4,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 8192,
}  # fmt: skip
CASES = ((1000, 15), (4000, 60))  # tokens and sentences of the reasoning
N_OPENING, N_ANSWER = 10, 3
COLUMNS = ("tokens", "sentences", "measure", "way", "seconds")


def seconds(run: Callable[[], Any], n_passes: int = PASSES) -> float:
    """CPU seconds of the fastest pass."""
    found = []
    for _ in range(n_passes):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return min(found)


def build() -> Any:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from r2a.models.attention import SEAM

    torch.manual_seed(0)
    torch.set_num_threads(1)
    return Qwen2ForCausalLM(Qwen2Config(**SIZES, attn_implementation=SEAM)).eval().requires_grad_(False)


def measured(model: Any, n_tokens: int, n_sentences: int) -> dict[tuple[str, str], float]:
    """Seconds by measure and way."""
    import torch
    from transformers import DynamicCache

    from hidden_sentences import whole_logits
    from r2a.models.attention import attention_kernel
    from r2a.models.decoder import Decoder
    from r2a.sentences.belief import measure_belief
    from r2a.sentences.branches import keep_run
    from r2a.sentences.suppression import measure_suppression

    random = torch.Generator().manual_seed(1)
    ids = torch.randint(1000, (n_tokens + N_OPENING + N_ANSWER,), generator=random).tolist()
    reasoning, opening, answer = ids[:n_tokens], ids[n_tokens:-N_ANSWER], ids[-N_ANSWER:]
    cut = [round(n_tokens * k / n_sentences) for k in range(n_sentences + 1)]
    cut[0] = 1  # a prompt precedes the reasoning
    body = Decoder(model).body

    def forward(tokens: list[int], rows: int = 1, **more: Any) -> Any:
        with torch.no_grad():
            return body(input_ids=torch.tensor([tokens] * rows), **{"use_cache": False} | more)

    def belief() -> None:
        measure_belief(model, keep_run(model, reasoning), cut, opening, [answer], lambda _: True, 8, 2048)

    def suppression() -> None:
        kept = keep_run(model, ids)
        measure_suppression(model, kept, cut, len(ids) - N_ANSWER, [None], lambda _: True, 8, 2048)

    found = {("belief", "ours"): seconds(belief), ("suppression", "ours"): seconds(suppression, 1)}
    with attention_kernel(model, "sdpa"):
        found["belief", "forward"] = seconds(lambda: forward(reasoning))
        found["suppression", "forward"] = seconds(lambda: forward(ids))
        found["belief", "tails"] = seconds(lambda: forward([*opening, *answer], len(cut)))
        found["belief", "naive"] = NTH * sum(
            seconds(lambda end=end: forward([*reasoning[:end], *opening, *answer]), 1) for end in cut[::NTH]
        )
        limit = 0.0
        whole = forward(ids, use_cache=True).past_key_values
        for end in cut[1:]:
            kept = DynamicCache()
            for layer, part in enumerate(whole.layers):
                kept.update(part.keys[:, :, :end], part.values[:, :, :end], layer)
            limit += seconds(lambda end=end, kept=kept: forward(ids[end:], use_cache=True, past_key_values=kept), 1)
        found["suppression", "limit"] = limit
        causal, measured_ones = torch.ones(len(ids), len(ids), dtype=torch.bool).tril(), range(0, n_sentences, NTH)
        masked = 0.0
        for k in measured_ones:
            sees = causal.clone()
            sees[cut[k + 1] :, cut[k] : cut[k + 1]] = False
            masked += seconds(lambda sees=sees: forward(ids, attention_mask=sees[None, None]), 1)
    naive = sum(seconds(lambda k=k: whole_logits(model, ids, (cut[k], cut[k + 1])), 1) for k in measured_ones)
    for way, took in (("masked", masked), ("naive", naive)):
        found["suppression", way] = took * n_sentences / len(measured_ones)
    return found


def through_vllm(model: Any) -> list[float]:
    """CPU seconds, by case, of the greedy answers after each cut, with prefix caching; the reasoning is read first."""
    import torch
    from vllm import SamplingParams

    from r2a.engine import start_engine

    found = []
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        longest = max(n_tokens for n_tokens, _ in CASES) + N_OPENING + N_ANSWER
        resources = {"gpu": 0, "cpu_cache_mb": 1024}
        engine = start_engine(folder, "float32", longest, resources, skip_tokenizer_init=True)
        sampling = SamplingParams(temperature=0, max_tokens=N_ANSWER, ignore_eos=True, detokenize=False)
        for n_tokens, n_sentences in CASES:
            random = torch.Generator().manual_seed(1)
            ids = torch.randint(1000, (n_tokens + N_OPENING,), generator=random).tolist()
            cut = [max(1, round(n_tokens * k / n_sentences)) for k in range(n_sentences + 1)]
            prompts: list[Any] = [{"prompt_token_ids": [*ids[:end], *ids[n_tokens:]]} for end in cut]

            def answers(reasoning: list[int], prompts: list[Any] = prompts) -> None:
                engine.reset_prefix_cache()
                engine.generate({"prompt_token_ids": reasoning}, sampling, use_tqdm=False)
                engine.generate(prompts, sampling, use_tqdm=False)

            found.append(seconds(lambda reasoning=ids[:n_tokens], answers=answers: answers(reasoning)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/sentences.csv"))
    parser.add_argument("--no-vllm", action="store_true")
    asked = parser.parse_args()
    model, rows = build(), []
    by_vllm: list[float] = []
    if not asked.no_vllm:
        try:
            by_vllm = through_vllm(model)
        except ImportError:
            print("vllm is not installed: its way is left out")
    for number, (n_tokens, n_sentences) in enumerate(CASES):
        found = measured(model, n_tokens, n_sentences)
        if by_vllm:
            found["belief", "vllm"] = by_vllm[number]
        rows += [(n_tokens, n_sentences, *key, f"{took:.3f}") for key, took in found.items()]
        bound = 1.3 * found["belief", "forward"] + 1.2 * found["belief", "tails"]
        print(
            f"{n_tokens} tokens, {n_sentences} sentences: belief takes {found['belief', 'ours'] / bound:.2f} of 1.3 "
            f"forward passes and 1.2 times its tails, and is {found['belief', 'naive'] / found['belief', 'ours']:.1f} "
            f"times as fast as naive; suppression reaches "
            f"{found['suppression', 'limit'] / found['suppression', 'ours']:.2f} of the limit, and is "
            f"{found['suppression', 'naive'] / found['suppression', 'ours']:.1f} times as fast as naive, "
            f"{found['suppression', 'masked'] / found['suppression', 'ours']:.1f} as masked",
            flush=True,
        )
        asked.output.parent.mkdir(parents=True, exist_ok=True)
        with open(asked.output, "w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
