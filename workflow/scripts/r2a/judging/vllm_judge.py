"""A judge that runs in vLLM here, constrained to the reply's JSON schema."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from r2a import engine
from r2a.engine import finished_outputs
from r2a.judging.requests import REFUSED, JudgeRequest, JudgingError, Reply
from r2a.models import engine_tokenizer, load_tokenizer
from r2a.prompts import ChatTemplate, PromptError

# otherwise a weak judge keeps writing blanks wherever any number of them is allowed
JSON_AS = {"backend": "xgrammar", "disable_any_whitespace": True}

_kept: dict[tuple[str, str], Any] = {}  # the last engine of this process, by the judge's folder and dtype


class VllmJudge:
    """Answers requests by a model's own chat template; the engine starts with the first request."""

    def __init__(
        self,
        folder: str,
        dtype: str,
        prompts: Sequence[str],
        max_tokens: int,
        day: str,
        schema: Mapping[str, Any],
        resources: Mapping[str, Any],
    ) -> None:
        """prompts: all that may be asked, with max_tokens or twice as many for a reply. resources: see start_engine.

        day: today's date for the template. schema: what replies are held to. Raises JudgingError if there is no chat
        template, or if it cannot ask a question.
        """
        from transformers import AutoConfig

        self.folder, self.dtype, self.schema, self.resources = folder, dtype, schema, resources
        self.tokenizer = load_tokenizer(folder)
        if self.tokenizer.chat_template is None:
            raise JudgingError(f"{folder}: the judge has no chat template; use a model that is trained to chat")
        try:
            self.template = ChatTemplate(self.tokenizer, day)
        except PromptError as error:
            raise JudgingError(f"{folder}: {error}; use a judge whose template accepts a question") from error
        self.ids = {prompt: self._prompt_ids(prompt) for prompt in prompts}
        self.n_positions = AutoConfig.from_pretrained(folder, trust_remote_code=False).max_position_embeddings
        longest = max(map(len, self.ids.values()), default=0) + 2 * max_tokens
        self.longest = min(longest, self.n_positions)
        self._llm: Any = None

    def __call__(self, requests: Sequence[JudgeRequest]) -> Iterator[tuple[JudgeRequest, Reply]]:
        """Yield (request, reply) in the order in which they finish; a request without room for a reply is refused."""
        fitting = []
        for request in requests:
            n_ids = len(self.ids[request.prompt])
            if n_ids + request.max_tokens <= self.n_positions:
                fitting.append(request)
            else:
                room = f"{n_ids} tokens and {request.max_tokens} of a reply in {self.n_positions} positions"
                yield request, Reply(f"{self.folder}: no room for {room}", REFUSED, 0.0)
        if not fitting:
            return
        if self._llm is None:
            self._llm = self._engine()
        for request, choice, seconds in finished_outputs(self._llm, fitting, self._as_vllm_takes_it):
            yield request, Reply(choice.text, choice.finish_reason, seconds)

    def _engine(self) -> Any:
        """A new engine; or, while the process makes other jobs' files (r2a.ahead), its last one, if it has room."""
        judge = self.folder, self.dtype
        if engine.may_start:
            _kept.clear()  # before the next one starts: an engine that ends takes vLLM's state of the process along
        elif judge in _kept and self.longest <= _kept[judge].llm_engine.model_config.max_model_len:
            return _kept[judge]
        options: dict[str, Any] = {"structured_outputs_config": JSON_AS, **engine_tokenizer(self.folder)}
        _kept[judge] = engine.start_engine(self.folder, self.dtype, self.longest, self.resources, **options)
        return _kept[judge]

    def _prompt_ids(self, prompt: str) -> list[int]:
        return self.tokenizer.encode(self.template.render(prompt), add_special_tokens=False)

    def _as_vllm_takes_it(self, request: JudgeRequest) -> tuple[Any, Any]:
        import vllm
        from vllm.sampling_params import StructuredOutputsParams

        sampling = vllm.SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p or 1.0,
            seed=request.seed,
            max_tokens=request.max_tokens,
            structured_outputs=StructuredOutputsParams(json=dict(self.schema)),
        )
        return {"prompt_token_ids": self.ids[request.prompt]}, sampling
