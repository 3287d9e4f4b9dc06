"""Prompts as METHOD section 1 defines them: each problem's text is turned into token ids once."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache, cached_property
from typing import Any

from r2a.formats import FORMATS, Asked, ReasoningFormat, read_format
from r2a.study import CONDITIONS

WITH, WITHOUT = CONDITIONS
UNASKED = Asked()
FINISHED_STUB = "Okay, I think I have finished thinking."
OPENED, CLOSED, NEITHER = "open", "closed", "neither"  # how a prompt may end
# a question with everything that templates are known to lose, escape or interpret; it is rendered before any problem
TRIAL = 'Is 9.11 < 9.9 & why?\n\nPut  "it" within \\boxed{}.'
# the closing mark of another reasoning format
OTHER_CLOSE = re.compile(r"(</[\w:]+>|[<\[]\|?(/|end_?(of)?_?)(think|thought|reason)\w*\|?[>\]])\s*$", re.IGNORECASE)


class PromptError(ValueError):
    """A prompt cannot be made as requested; the message says what the template does."""


@dataclass(frozen=True)
class PromptStyle:
    """How a model's prompts are made.

    prompt: "raw" is the paper's prompt, "chat" uses the model's template. without_reasoning: "finished" gives a closed
    reasoning with the paper's stub, "empty" a closed empty reasoning, "native" uses the model's own switch.
    think_tags: "pieces" spells the delimiters of the reasoning in tokens of plain text. template_arguments,
    system_turn: by condition, what the template gets in addition to what the format needs. date: the template's today.
    """

    form: ReasoningFormat
    prompt: str = "raw"
    without_reasoning: str = "finished"
    think_tags: str = "token"
    template_arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    system_turn: Mapping[str, str] = field(default_factory=dict)
    date: str = "2025-09-28"

    @classmethod
    def of(cls, settings: Mapping[str, Any], form: Mapping[str, Any]) -> "PromptStyle":
        """The style in a stage's settings, by default the paper's. form: as in the model's manifest."""
        names = ("prompt", "without_reasoning", "think_tags", "template_arguments", "system_turn", "date")
        return cls(read_format(form), **{name: settings[name] for name in names if name in settings})

    def asked(self, condition: str) -> Asked:
        """The template's arguments, system turn and endings in a condition."""
        is_native = condition != WITH and self.without_reasoning == "native"
        own = (self.form.no_think or Asked()) if is_native else self.form.think
        turns = [text for text in (own.system, self.system_turn.get(condition, "")) if text]
        arguments = {**own.arguments, **self.template_arguments.get(condition, {})}
        return Asked(arguments, "\n\n".join(turns), own.suffix, own.ending)

    def prefill(self, condition: str) -> str:
        """What the prompt adds if its template does not: the reasoning's opening, or an opened and closed reasoning."""
        if condition == WITH:
            return self.form.opening
        return "" if self.without_reasoning == "native" else self.closed(self.form.opening)

    def closed(self, opened: str) -> str:
        """A text that ends in an opened reasoning, with that reasoning closed."""
        stub = FINISHED_STUB if self.without_reasoning == "finished" else ""
        line = "\n" if opened.endswith("\n") else ""
        return f"{opened}{stub}{line}{self.form.close}"


RAW = PromptStyle(FORMATS["r1"].function())


def raw_prompt(problem: str, instruction: str, condition: str, style: PromptStyle = RAW) -> str:
    """The paper's prompt, without a chat template; BOS is added before it as a token."""
    return f"{problem}{instruction} {style.prefill(condition)}"


class ChatTemplate:
    """A tokenizer's chat template with a fixed date; turns are given as text or as parts, whichever it accepts."""

    def __init__(self, tokenizer: Any, day: str) -> None:
        """day: such as 2025-09-28. Raises PromptError if the template loses or changes a question in both forms."""
        self.tokenizer, self.day = tokenizer, date.fromisoformat(day)
        faults = []
        for self.takes_parts in (False, True):
            try:
                text = self.render(TRIAL)
            except PromptError as fault:
                faults.append(str(fault))
                continue
            if TRIAL in text:
                return
            faults.append(f"its chat template loses the question or changes it: {text[-300:]!r}")
        raise PromptError(faults[0])

    def render(self, question: str, asked: Asked = UNASKED, add_generation_prompt: bool = True) -> str:
        """The prompt's text. Raises PromptError if the template fails."""
        turns: list[dict[str, Any]] = [{"role": "system", "content": asked.system}] if asked.system else []
        turns.append({"role": "user", "content": question + asked.suffix})
        if self.takes_parts:
            turns = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
        days = {"strftime_now": self.day.strftime, "date_string": self.day.strftime("%d %b %Y")}
        try:
            return self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt, **days, **asked.arguments
            )
        except Exception as error:  # a template may raise anything
            raise PromptError(f"its chat template fails: {type(error).__name__}: {error}") from error


class Prompts:
    """Makes a model's prompts in a style."""

    def __init__(self, tokenizer: Any, style: PromptStyle) -> None:
        """Raises PromptError if the chat template is missing, fails or loses questions, or has no native switch."""
        self.tokenizer, self.style = tokenizer, style
        self.template: ChatTemplate | None = None
        is_asked = style.form.no_think or WITHOUT in style.template_arguments or WITHOUT in style.system_turn
        if style.without_reasoning == "native" and not is_asked:
            raise PromptError(
                "its reasoning format cannot be asked not to think; set without_reasoning to finished or empty, "
                "or say how in template_arguments.without_reasoning"
            )
        if style.prompt == "chat":
            if tokenizer.chat_template is None:
                raise PromptError("it has no chat template")
            self.template = ChatTemplate(tokenizer, style.date)

    def text(self, problem: str, instruction: str, condition: str) -> str:
        """The prompt's text, without the BOS with which a raw prompt begins.

        If the chat template opens the reasoning, that opening is kept; otherwise the format's is added. Raises
        PromptError if the template closes the reasoning that the condition opens, opens or closes it twice, or ignores
        the request not to think.
        """
        style = self.style
        if self.template is None:
            return raw_prompt(problem, instruction, condition, style)
        asked = style.asked(condition)
        text = self.template.render(problem + instruction, asked) + asked.ending
        if (
            asked.system
            and text == self.template.render(problem + instruction, replace(asked, system="")) + asked.ending
        ):
            raise PromptError(f"its chat template takes no notice of a system turn: {_tail(text)}")
        end = self._ending(text, problem + instruction, asked)
        if not style.prefill(condition):
            if end == OPENED:
                raise PromptError(f"when asked not to think, its chat template opens a reasoning: {_tail(text)}")
            if end == NEITHER and text == self.template.render(problem + instruction, style.asked(WITH)):
                raise PromptError(f"when asked not to think, its chat template changes nothing: {_tail(text)}")
            return text
        if end == CLOSED:
            raise PromptError(f"its chat template closes the reasoning before the model can think: {_tail(text)}")
        opened = text if end == OPENED else text + style.form.opening
        return opened if condition == WITH else style.closed(opened)

    def ids(self, problem: str, instruction: str, condition: str) -> list[int]:
        """Token ids of a prompt, with BOS if the tokenizer has one."""
        ids = self.tokenizer.encode(self.text(problem, instruction, condition), add_special_tokens=False)
        if self.template is None and self.tokenizer.bos_token_id is not None:
            ids = [self.tokenizer.bos_token_id, *ids]
        return spelled_ids(self.tokenizer, ids, self.style.form) if self.style.think_tags == "pieces" else ids

    def refuse_losing(self, condition: str) -> None:
        """Raise PromptError if a condition's prompt loses or changes a question, or begins with BOS twice."""
        text = self.text(TRIAL, "", condition)
        if TRIAL not in text:
            raise PromptError(f"its chat template loses the question or changes it, {condition}: {_tail(text)}")
        bos = self.tokenizer.bos_token_id
        if bos is not None and self.ids(TRIAL, "", condition)[:2] == [bos, bos]:
            raise PromptError(f"its prompt begins with {self.tokenizer.bos_token} twice: {text[:60]!r}")

    @cached_property
    def declines(self) -> bool:
        """Whether prompts without reasoning contain no opened reasoning, as with some models' native switch."""
        if self.style.without_reasoning != "native" or self.template is None:
            return False
        asked = self.style.asked(WITHOUT)
        text = self.template.render(TRIAL, asked) + asked.ending
        return self.style.form.open.strip() not in self._written(text, TRIAL, asked)

    def _ending(self, text: str, question: str, asked: Asked) -> str:
        """How a rendered prompt ends. Raises PromptError if its reasoning is opened or closed twice."""
        form, written = self.style.form, self._written(text, question, asked)
        closed = max((written.rfind(closing.strip()), len(closing.strip())) for closing in form.closings)
        opened = written.rfind(form.open.strip())
        n_closed = sum(written.count(closing.strip()) for closing in form.closings)
        if written.count(form.open.strip()) > 1 or n_closed > 1 or (opened > closed[0] >= 0):
            raise PromptError(f"its chat template opens or closes the reasoning twice: {_tail(text)}")
        if closed[0] >= 0:
            return CLOSED
        if opened < 0:
            if OTHER_CLOSE.search(written) or written.rstrip().endswith(_known_closings()):
                raise PromptError(f"its chat template closes what its reasoning format does not know: {_tail(text)}")
            return NEITHER
        if written[opened + len(form.open.strip()) :].strip():
            raise PromptError(f"its chat template writes into the reasoning that it opens: {_tail(text)}")
        return OPENED

    def _written(self, text: str, question: str, asked: Asked) -> str:
        """What the template writes in the model's turn: its generation prompt, or else all after the question."""
        assert self.template is not None
        asking = self.template.render(question, asked, add_generation_prompt=False)
        if text.startswith(asking) and text != asking:
            return text[len(asking) :]
        _, found, after = text.rpartition(question.strip())
        return after if found else text


def prompt_ids(tokenizer: Any, problem: str, instruction: str, condition: str, style: PromptStyle = RAW) -> list[int]:
    """Token ids of one prompt; see Prompts."""
    return Prompts(tokenizer, style).ids(problem, instruction, condition)


def spelled_ids(tokenizer: Any, ids: list[int], form: ReasoningFormat) -> list[int]:
    """The ids, with each token of the format's delimiters spelled in tokens of plain text.

    Raises PromptError if there are no such tokens, or if the tokenizer has no pieces that spell them.
    """
    contents = {token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items()}
    marks = [content for content in contents if content in form.open or content in form.close]
    if not marks:
        raise PromptError(f"{form.open!r} is already spelled in tokens of plain text; leave think_tags at token")
    pieces = {contents[mark]: tag_pieces(tokenizer, mark) for mark in marks}
    return [piece for token in ids for piece in pieces.get(token, [token])]


def tag_pieces(tokenizer: Any, tag: str) -> list[int]:
    """The tokens that spell a tag that has its own token. Raises PromptError if the tokenizer cannot spell it."""
    backend = tokenizer.backend_tokenizer
    words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(tag)] if backend.pre_tokenizer else [tag]
    ids = [piece.id for word in words for piece in backend.model.tokenize(word)]
    if len(ids) < 2 or tokenizer.decode(ids) != tag:
        raise PromptError(f"this tokenizer has no pieces that spell {tag}; leave think_tags at token")
    return ids


@cache
def _known_closings() -> tuple[str, ...]:
    """What closes the reasoning in any registered format."""
    return tuple(closing.strip() for entry in FORMATS.values() for closing in entry.function().closings)


def _tail(text: str) -> str:
    return f"the prompt ends in {text[-120:]!r}"
