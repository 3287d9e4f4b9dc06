"""A judge in vLLM here, held to the reply's JSON schema."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from r2a.engine import finished_outputs, start_engine
from r2a.judging.replies import SCHEMA
from r2a.judging.requests import REFUSED, JudgingError, Reply, Request
from r2a.models import load_tokenizer

# else a weak judge goes on with blanks where any number of them may stand
JSON_AS = {"backend": "xgrammar", "disable_any_whitespace": True}


class VllmJudge:
    """Answers requests by a model's own chat template; the engine starts with the first of them."""

    def __init__(self, folder: Path, dtype: str, engine: Mapping[str, Any]) -> None:
        """engine: as start_engine takes it. Raises JudgingError where the model has no chat template."""
        from transformers import AutoConfig

        self.folder, self.dtype, self.engine = folder, dtype, engine
        self.tokenizer = load_tokenizer(folder)
        if self.tokenizer.chat_template is None:
            raise JudgingError(f"{folder}: the judge has no chat template; take a model that is trained to chat")
        self.n_positions = AutoConfig.from_pretrained(folder).max_position_embeddings
        self._llm: Any = None

    def __call__(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Reply]]:
        """Yield (request, reply) in the order in which they finish; one that leaves no room for a reply is refused."""
        ids = {request: self._prompt_ids(request.prompt) for request in requests}
        fitting = []
        for request in requests:
            if len(ids[request]) + request.max_tokens <= self.n_positions:
                fitting.append(request)
            else:
                room = f"{len(ids[request])} tokens and {request.max_tokens} of a reply in {self.n_positions} positions"
                yield request, Reply(f"{self.folder}: no room for {room}", REFUSED, 0.0)
        if not fitting:
            return
        if self._llm is None:  # with room for replies that are asked for again
            longest = max(len(ids[request]) + 2 * request.max_tokens for request in fitting)
            longest = min(longest, self.n_positions)
            self._llm = start_engine(
                str(self.folder), self.dtype, longest, self.engine, structured_outputs_config=JSON_AS
            )

        def as_vllm_takes_it(request: Request) -> tuple[Any, Any]:
            return {"prompt_token_ids": ids[request]}, sampling_parameters(request)

        for request, choice, seconds in finished_outputs(self._llm, fitting, as_vllm_takes_it):
            yield request, Reply(choice.text, choice.finish_reason, seconds)

    def _prompt_ids(self, prompt: str) -> list[int]:
        turn = [{"role": "user", "content": prompt}]
        text = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        return self.tokenizer.encode(text, add_special_tokens=False)


def sampling_parameters(request: Request) -> Any:
    """vLLM's own, with replies held to the schema."""
    import vllm
    from vllm.sampling_params import StructuredOutputsParams

    return vllm.SamplingParams(
        temperature=request.temperature,
        top_p=request.top_p or 1.0,
        seed=request.seed,
        max_tokens=request.max_tokens,
        structured_outputs=StructuredOutputsParams(json=SCHEMA),
    )
