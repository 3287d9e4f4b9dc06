"""Reasoning formats: every registered one on a model of its shape, and which prompts are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import CONFIG_MAPPING, AutoTokenizer, PreTrainedTokenizerFast

from format_samples import CHATML, LLAMA, SAMPLES, TINY, Sample, make_model
from r2a.formats import FORMATS, FormatError, choose_format, read_format
from r2a.formats.table import BEGIN, END, formats_table
from r2a.generation import build_requests
from r2a.generation.endpoint_engine import request_body
from r2a.models import (
    ModelError,
    engine_tokenizer,
    format_of,
    load_tokenizer,
    marks_of,
    resolve_model,
    text_marks,
    text_of,
    token_pieces,
)
from r2a.prompts import CONDITIONS, FINISHED_STUB, Prompts, PromptStyle
from r2a.study import ConfigError, load_study, stage_settings
from r2a.traces import SEGMENTS, segment

QUESTION, INSTRUCTION = "Which is larger, 9.11 or 9.9?", " Answer in a box."
REASONING, ANSWER = "First, 9.9 is 9.90. Wait, so it is larger.", "It is \\boxed{9.9}."


def resolved(folder: Path, **settings: Any) -> dict[str, Any]:
    """The manifest of a model with chat prompts."""
    source = {"path": str(folder), "hub": None, "revision": None}
    known = {"model": "mine", "dtype": "float32", "source": source, "endpoint": None, "prompt": "chat"}
    resolve_model(folder / "manifest.json", known | settings)
    return json.loads((folder / "manifest.json").read_text())


@pytest.fixture(scope="module", params=SAMPLES)
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Sample, Path]:
    chosen = SAMPLES[request.param]
    folder = tmp_path_factory.mktemp("formats") / request.param
    return request.param, chosen, make_model(folder, chosen.template, chosen.tokens, chosen.has_tags)


def prompts_of(name: str, folder: Path, **style: Any) -> Prompts:
    return Prompts(load_tokenizer(folder), PromptStyle(FORMATS[name].function(), "chat", **style))


def test_every_registered_format_is_tried():
    assert set(SAMPLES) == set(FORMATS)


def test_a_format_is_known_by_its_models_template(sample):
    name, chosen, folder = sample
    if chosen.is_given:
        assert format_of(folder, name)[0] == name
    else:
        assert format_of(folder)[0] == name


def test_a_prompt_with_reasoning_ends_in_the_models_own_opening(sample):
    name, chosen, folder = sample
    text = prompts_of(name, folder).text(QUESTION, INSTRUCTION, "with_reasoning")
    assert text.endswith(chosen.opened)
    assert QUESTION + INSTRUCTION in text


@pytest.mark.parametrize(("mode", "stub"), [("finished", FINISHED_STUB), ("empty", "")])
def test_a_reasoning_is_closed_beforehand_in_the_models_own_delimiters(sample, mode, stub):
    name, chosen, folder = sample
    text = prompts_of(name, folder, without_reasoning=mode).text(QUESTION, INSTRUCTION, "without_reasoning")
    line = "\n" if chosen.opened.endswith("\n") else ""
    assert text.endswith(f"{chosen.opened}{stub}{line}{FORMATS[name].function().close}")


def test_native_is_what_the_models_own_template_writes(sample):
    name, chosen, folder = sample
    given = {"reasoning_format": name, "without_reasoning": "native"}
    if chosen.declined is None:
        with pytest.raises(ModelError, match=r"cannot be asked not to think; set without_reasoning to finished"):
            resolved(folder, **given)
        return
    prompts = prompts_of(name, folder, without_reasoning="native")
    assert prompts.text(QUESTION, INSTRUCTION, "without_reasoning").endswith(chosen.declined)
    opens_none = FORMATS[name].function().open.strip() not in chosen.declined
    assert resolved(folder, **given)["declines_reasoning"] == prompts.declines == opens_none


@pytest.mark.parametrize("mode", ["finished", "empty", "native"])
def test_a_completion_is_cut_at_the_formats_delimiters(sample, mode):
    name, chosen, folder = sample
    if mode == "native" and chosen.declined is None:
        mode = "finished"
    form, tokenizer = FORMATS[name].function(), load_tokenizer(folder)
    marks = marks_of(folder, form)
    prompts = prompts_of(name, folder, without_reasoning=mode)
    for condition in CONDITIONS:
        prompt = prompts.ids(QUESTION, INSTRUCTION, condition)
        written = f"{chosen.before}{ANSWER}{chosen.after}"
        written = f"{REASONING}{form.close}{written}" if condition == "with_reasoning" else written
        completion = [*tokenizer.encode(written, add_special_tokens=False), tokenizer.eos_token_id]
        ids = [*prompt, *completion]
        declines = prompts.declines and condition == "without_reasoning"
        bounds, n_closes, answer = segment(prompt, completion, marks, declines)
        texts = {name: text_of(tokenizer, ids[bounds.span(name)]) for name in SEGMENTS}
        assert "".join(texts.values()) == text_of(tokenizer, prompt) + written + tokenizer.eos_token
        assert list(bounds) == sorted(bounds)
        assert n_closes == 1
        assert answer.strip() == ANSWER
        assert texts["answer"].strip() in answer
        assert texts["eos"].endswith(tokenizer.eos_token)
        if condition == "with_reasoning":
            assert texts["think_open"].strip() == form.open.strip()
            assert texts["reasoning"].strip() == REASONING
            assert form.close in texts["think_close"]
        elif mode == "empty":
            assert texts["reasoning"].strip() == ""


def test_a_format_survives_the_manifest(sample):
    name, _, folder = sample
    manifest = resolved(folder, reasoning_format=name)
    assert manifest["reasoning_format"] == name
    assert read_format(manifest["format"]) == FORMATS[name].function()


# ---- which format a model has


def test_a_model_whose_template_fits_two_formats_is_refused_until_one_is_named():
    both = "".join([*FORMATS["magistral"].signs, *FORMATS["seed_oss"].signs])
    with pytest.raises(FormatError, match=r"magistral and seed_oss; name one of them"):
        choose_format(None, both, has_think_tags=True)
    assert choose_format("seed_oss", both, has_think_tags=True)[0] == "seed_oss"


def test_what_neither_template_nor_tokens_tell_is_asked_for():
    with pytest.raises(FormatError, match=r"name one of r1, .*seed_oss.*, or give \{open: \.\.\., close: \.\.\.\}"):
        choose_format(None, CHATML, has_think_tags=False)
    name, form, how = choose_format(None, None, has_think_tags=True)
    assert (name, form.open, how) == ("r1", "<think>", "by its tokens <think> and </think>")


def test_a_format_may_be_spelled_out_in_the_configuration(tmp_path):
    folder = make_model(tmp_path / "m", CHATML, has_tags=False)
    given = {"open": "<mm:think>", "close": "</mm:think>", "after_open": ""}
    manifest = resolved(folder, reasoning_format=given)
    assert manifest["reasoning_format"] == "given"
    form = read_format(manifest["format"])
    prompt = Prompts(load_tokenizer(folder), PromptStyle(form, "chat")).ids(QUESTION, "", "with_reasoning")
    completion = load_tokenizer(folder).encode(f"{REASONING}</mm:think>{ANSWER}", add_special_tokens=False)
    found = segment(prompt, completion, marks_of(folder, form))
    assert (found.n_closes, found.answer) == (1, ANSWER)


# ---- models of which no format is registered: their template's own switch, or what a refusal asks for

ASSISTANT = "{% if add_generation_prompt %}<assistant>{% endif %}"
TURNS = "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}\n{% endfor %}" + ASSISTANT
OPENS_OR_CLOSES = TURNS + "{% if add_generation_prompt %}{{ '<think>' if enable_thinking else '</think>' }}{% endif %}"
OFTEN_SILENT = (
    "{% if not thinking is defined %}{% set thinking = false %}{% endif %}{% if thinking %}Think between <think> and "
    "</think>.\n{% endif %}" + TURNS
)
BY_DEFAULT = (
    "{%- if thinking is defined and thinking is false -%}{{ '<think></think>' }}{%- else -%}<think>{%- endif -%}"
)
IN_WORDS = TURNS + "{# <think></think> #}{% if mode == 'thinking' or turn.thinking %}{% endif %}"
SET_ONLY = "{% set thinking = true %}{# <think></think> #}" + TURNS


@pytest.mark.parametrize(
    ("template", "opened", "declined"),
    [
        (OPENS_OR_CLOSES, "<assistant><think>", "<assistant></think>"),
        (OFTEN_SILENT, "<assistant><think>\n", "<assistant>"),
        (LLAMA + "{% if add_generation_prompt %}" + BY_DEFAULT + "{% endif %}", "\n\n<think>", "\n\n<think></think>"),
        ("{# <|im_assistant|> #}" + TURNS + BY_DEFAULT, "<assistant><think>", "<assistant><think></think>"),
        ("{# [gMASK] #}" + OPENS_OR_CLOSES, "<assistant><think>", "<assistant></think>"),
    ],
)
@pytest.mark.parametrize("has_tags", [False, True])
def test_a_template_is_asked_to_think_and_not_to_think_by_its_own_switch(
    tmp_path, template, opened, declined, has_tags
):
    folder = make_model(tmp_path / "m", template, has_tags=has_tags)
    form = read_format(resolved(folder, without_reasoning="native")["format"])
    tokenizer = load_tokenizer(folder)
    prompts = Prompts(tokenizer, PromptStyle(form, "chat", without_reasoning="native"))
    texts = [prompts.text(QUESTION, "", condition) for condition in CONDITIONS]
    assert texts[0].endswith(opened) and texts[1].endswith(declined)
    marks = marks_of(folder, form)
    for condition, written in zip(CONDITIONS, (f"{REASONING}</think>{ANSWER}", ANSWER), strict=True):
        prompt = prompts.ids(QUESTION, "", condition)
        completion = tokenizer.encode(written, add_special_tokens=False)
        found = segment(prompt, completion, marks, prompts.declines and condition == "without_reasoning")
        assert (found.n_closes, found.answer) == (1, ANSWER)


@pytest.mark.parametrize("template", [TURNS + "{# <think></think> #}", IN_WORDS, SET_ONLY])
def test_a_word_is_no_switch(template):
    assert choose_format(None, template, has_think_tags=True)[1] == FORMATS["r1"].function()


@pytest.mark.parametrize(
    ("given", "system"),
    [
        ("r1", ""),
        ("r1", "Think between <think> and </think>."),
        ({"open": "<|begin_of_thought|>", "close": "<|end_of_thought|>", "answer_open": "<|begin_of_solution|>",
          "answer_close": "<|end_of_solution|>"}, ""),
        ({"open": "<reasoning>", "close": "</reasoning>", "answer_open": "<answer>", "answer_close": "</answer>"}, ""),
        ({"open": "<ifm|think>", "close": "</ifm|think>", "after_open": ""}, ""),
        ({"open": "### Thoughts", "close": "### Answer"}, "Use headings."),
    ],
)  # fmt: skip
@pytest.mark.parametrize("template", [CHATML, LLAMA, TURNS])
def test_what_a_refusal_asks_for_is_enough(tmp_path, given, system, template):
    folder = make_model(tmp_path / "m", template, has_tags=False)
    with pytest.raises(
        ModelError, match=r"name one of r1, .*, or give \{open: \.\.\., close: \.\.\.\}, as the model's"
    ):
        resolved(folder)
    form = read_format(resolved(folder, reasoning_format=given)["format"])
    turns = {"with_reasoning": system} if system else {}
    prompts, tokenizer = (
        Prompts(load_tokenizer(folder), PromptStyle(form, "chat", system_turn=turns)),
        load_tokenizer(folder),
    )
    for before in ("", "\n", "\n\n"):
        prompt = prompts.ids(QUESTION, "", "with_reasoning")
        written = f"{REASONING}{before}{form.close}{before}{form.answer_open}{before}{ANSWER}{form.answer_close}"
        completion = tokenizer.encode(written, add_special_tokens=False)
        found = segment(prompt, completion, marks_of(folder, form))
        assert (found.n_closes, found.answer.strip()) == (1, ANSWER)
        texts = {name: text_of(tokenizer, [*prompt, *completion][found.bounds.span(name)]) for name in SEGMENTS}
        assert texts["reasoning"].strip() == REASONING and form.open in texts["think_open"]


def test_an_effort_that_a_template_closes_at_is_raised_by_the_key_that_the_refusal_names(tmp_path):
    effort = "{% if reasoning_effort is not defined or reasoning_effort == 'no_think' %}<think></think>{% endif %}"
    folder = make_model(tmp_path / "m", TURNS + effort)
    with pytest.raises(ModelError, match=r"closes the reasoning before the model can think.*template_arguments"):
        resolved(folder)
    efforts = {"with_reasoning": {"reasoning_effort": "high"}, "without_reasoning": {"reasoning_effort": "no_think"}}
    resolved(folder, template_arguments=efforts, without_reasoning="native")


# ---- prompts that are refused, or opened by the template's own argument (P01)

CLOSES_ALWAYS = CHATML + "{% if add_generation_prompt %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
CLOSES_BY_DEFAULT = (
    CHATML + "{% if add_generation_prompt and not think_aloud %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
)
DOUBLED = CHATML + "{% if add_generation_prompt %}{{ '<think></think><think>\n' }}{% endif %}"
LEADS = CHATML + "{% if add_generation_prompt %}{{ '<think>\n</think>\nThe answer: ' }}{% endif %}"
WRITES_IN = CHATML + "{% if add_generation_prompt %}{{ '<think>\nOkay, ' }}{% endif %}"
OTHER_TAGS = CHATML + "{% if add_generation_prompt %}{{ '<thought>\n</thought>\n' }}{% endif %}"
OTHER_TOKENS = CHATML + "{% if add_generation_prompt %}<|begin_of_thought|><|end_of_thought|>{% endif %}"
OTHER_FORMAT = CHATML + "{% if add_generation_prompt %}{{ '<|channel>thought\n<channel|>' }}{% endif %}"
TWICE = CHATML + "{% if add_generation_prompt %}{{ '<think>\n<think>\n' }}{% endif %}"


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        (CLOSES_ALWAYS, r"closes the reasoning before the model can think: the prompt ends in .*</think>"),
        (LEADS, r"closes the reasoning before the model can think: the prompt ends in .*The answer: "),
        (DOUBLED, r"opens or closes the reasoning twice: the prompt ends in .*<think></think><think>"),
        (TWICE, r"opens or closes the reasoning twice"),
        (WRITES_IN, r"writes into the reasoning that it opens: the prompt ends in .*Okay, "),
        (OTHER_TAGS, r"closes what its reasoning format does not know: the prompt ends in .*</thought>"),
        (OTHER_TOKENS, r"closes what its reasoning format does not know: the prompt ends in .*<\|end_of_thought\|>"),
        (OTHER_FORMAT, r"closes what its reasoning format does not know: the prompt ends in .*<channel\|>"),
    ],
)
def test_a_template_that_ends_against_the_condition_is_refused_with_its_end_and_the_keys_to_change(
    tmp_path, template, fault
):
    folder = make_model(tmp_path / "m", template)
    with pytest.raises(ModelError, match=fault) as refusal:
        resolved(folder, reasoning_format="r1")
    assert "models.mine another chat template, prompt: raw, template_arguments" in str(refusal.value)
    assert not (folder / "manifest.json").exists()


@pytest.mark.parametrize("name", ["deepseek_v3", "qwen3_5", "exaone4", "command_a", "gemma"])
def test_a_template_that_closes_by_default_is_opened_by_its_own_argument(tmp_path, name):
    chosen = SAMPLES[name]
    folder = make_model(tmp_path / "m", chosen.template, chosen.tokens, chosen.has_tags)
    with pytest.raises(ModelError, match="closes the reasoning before the model can think"):
        resolved(folder, template_arguments={"with_reasoning": dict.fromkeys(ARGUMENTS, False)})
    assert resolved(folder)["reasoning_format"] == name


ARGUMENTS = ("thinking", "enable_thinking", "reasoning")


def test_an_argument_that_no_format_knows_is_given_by_the_configuration(tmp_path):
    folder = make_model(tmp_path / "m", CLOSES_BY_DEFAULT)
    with pytest.raises(ModelError, match="closes the reasoning"):
        resolved(folder)
    arguments = {"with_reasoning": {"think_aloud": True}, "without_reasoning": {"think_aloud": False}}
    resolved(folder, template_arguments=arguments, without_reasoning="native")


def test_a_template_that_takes_no_notice_of_being_asked_not_to_think_is_refused(tmp_path):
    folder = make_model(tmp_path / "m", CHATML)
    with pytest.raises(ModelError, match="when asked not to think, its chat template changes nothing"):
        resolved(folder, reasoning_format="qwen3", without_reasoning="native")
    opens = make_model(tmp_path / "opens", SAMPLES["r1"].template)
    with pytest.raises(ModelError, match="when asked not to think, its chat template opens a reasoning"):
        resolved(opens, reasoning_format="qwen3", without_reasoning="native")


def test_a_system_turn_follows_the_formats_own(tmp_path):
    folder = make_model(tmp_path / "m", LLAMA, has_tags=False)
    style = PromptStyle(FORMATS["nemotron_v1"].function(), "chat", system_turn={"with_reasoning": "Be brief."})
    prompts = Prompts(load_tokenizer(folder), style)
    assert "system<|end_header_id|>\n\ndetailed thinking on\n\nBe brief.<|eot_id|>" in prompts.text(
        "Q?", "", CONDITIONS[0]
    )
    assert "Be brief." not in prompts.text("Q?", "", CONDITIONS[1])


# ---- templates that want parts, lose the question or fail (P02)


@pytest.mark.parametrize(
    "content",
    [
        "{% for part in turn.content %}{{ part.text }}{% endfor %}",
        "{{ turn.content[0]['text'] }}",
        "{% for part in turn.content %}{% if part.type == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}",
    ],
)
def test_a_template_that_wants_content_in_parts_is_given_parts(tmp_path, content):
    folder = make_model(tmp_path / "m", CHATML.replace("{{ turn.content }}", content))
    resolved(folder)
    style = PromptStyle(FORMATS["r1"].function(), "chat")
    assert QUESTION in Prompts(load_tokenizer(folder), style).text(QUESTION, "", "with_reasoning")


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        (CHATML.replace("{{ turn.content }}", ""), "loses the question or changes it"),
        (CHATML.replace("turn.content", "turn.content | upper"), "loses the question or changes it"),
        (CHATML.replace("turn.content", "turn.content | e"), "loses the question or changes it"),
        (CHATML.replace("{{ turn.content }}", "{{ turn.content.split('\\\\')[0] }}"), "loses the question"),
        (CHATML.replace("turn.content", "turn.content.replace('\n', ' ')"), "loses the question or changes it"),
        (CHATML.replace("turn.content", "turn.content.split() | join(' ')"), "loses the question or changes it"),
        ("{{ bos_token }}{{ bos_token }}" + CHATML, r"begins with <\|begin\|> twice: '<\|begin\|><\|begin\|>"),
        ("{{ raise_exception('roles must alternate') }}", "fails: TemplateError: roles must alternate"),
        (CHATML + "{{ missing.field }}", "fails: UndefinedError"),
        ("{% for turn in messages %}{{ turn.content }}", "fails: TemplateSyntaxError"),
    ],
)
def test_a_template_that_loses_the_question_or_fails_is_refused_by_name(tmp_path, template, fault):
    folder = make_model(tmp_path / "m", template)
    with pytest.raises(ModelError, match=fault) as refusal:
        resolved(folder)
    assert str(folder) in str(refusal.value)


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("<|im_start|>user\n{{ messages[0].content }}\n", "loses the question or changes it, with_reasoning"),
        ("{% for turn in messages if turn.role == 'user' %}{{ turn.content }}\n{% endfor %}", "no notice of a system"),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}" + CHATML, "No system"),
    ],
)
def test_a_template_that_cannot_take_a_system_turn_is_refused_if_there_is_one(tmp_path, template, fault):
    folder = make_model(tmp_path / "m", template)
    resolved(folder)
    with pytest.raises(ModelError, match=fault):
        resolved(folder, system_turn={"with_reasoning": "Think hard."})


def test_a_template_that_loses_the_question_of_one_condition_is_refused(tmp_path):
    hides = "{% if enable_thinking %}" + CHATML + "{% else %}Hi.\n{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    folder = make_model(tmp_path / "m", "{% set enable_thinking = enable_thinking | default(true) %}" + hides)
    with pytest.raises(ModelError, match="loses the question or changes it, without_reasoning"):
        resolved(folder, reasoning_format="qwen3", without_reasoning="native")


def test_one_of_several_named_templates_is_the_default(tmp_path):
    folder = make_model(tmp_path / "m")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    path, named = folder / "tokenizer_config.json", [{"name": "tool_use", "template": "{{ tools[0] }}"}]
    for templates, is_found in ((named, False), ([*named, {"name": "default", "template": CHATML}], True)):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": templates}))
        if is_found:
            assert resolved(folder)["reasoning_format"] == "r1"
        else:
            with pytest.raises(ModelError, match="multiple chat templates with no default"):
                resolved(folder)


# ---- dates (P03)


@pytest.mark.parametrize(
    "date",
    ["{{ strftime_now('%d %b %Y') }}", "{{ date_string }}", "{% set day = strftime_now('%d %b %Y') %}{{ day }}"],
)
def test_a_template_takes_the_studys_date_for_today(tmp_path, date):
    folder = make_model(tmp_path / "m", f"Today Date: {date}\n{CHATML}")
    tokenizer, form = load_tokenizer(folder), FORMATS["r1"].function()
    text = Prompts(tokenizer, PromptStyle(form, "chat")).text("Q?", "", "with_reasoning")
    assert text.startswith("Today Date: 28 Sep 2025\n")
    text = Prompts(tokenizer, PromptStyle(form, "chat", date="2031-02-03")).text("Q?", "", "with_reasoning")
    assert text.startswith("Today Date: 03 Feb 2031\n")


# ---- what ends a completion (P04)


@pytest.mark.parametrize(
    ("files", "stops"),
    [
        ({"config": {"eos_token_id": [1, 284]}}, {1, 284}),
        ({"config": {"eos_token_id": 284}, "generation_config": {"eos_token_id": [1, 7]}}, {1, 7, 284}),
        ({"config": {"eos_token_id": None, "text_config": {"eos_token_id": 9}}}, {1, 9}),
        ({"generation_config": {"eos_token_id": None}}, {1}),
    ],
)
def test_stop_tokens_are_those_of_all_three_files(tmp_path, files, stops):
    folder = make_model(tmp_path / "m")
    (folder / "generation_config.json").unlink(missing_ok=True)
    for stem, held in files.items():
        path = folder / f"{stem}.json"
        path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | held))
    assert marks_of(folder).stops == stops


@pytest.mark.parametrize("written", ["{", '{"eos_token_id": ["<|im_end|>"]}', '{"eos_token_id": {"a": 1}}', "[1]"])
def test_a_file_of_stop_tokens_that_cannot_be_read_is_named(tmp_path, written):
    folder = make_model(tmp_path / "m")
    (folder / "generation_config.json").write_text(written)
    with pytest.raises(ModelError, match=r"generation_config.json: eos_token_id cannot be read"):
        resolved(folder)


# ---- the exact text of tokens


def test_token_texts_are_exact_in_a_byte_level_vocabulary(tmp_path):
    tokenizer = load_tokenizer(make_model(tmp_path / "m"))
    for text in ("  two  spaces , and 'quotes' .\n\n", "naïve 日本 🙂 x", "\ttabs\r\n", "<think>\n</think> a"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert text_of(tokenizer, ids) == text
        pieces = token_pieces(tokenizer, ids)
        assert "".join(pieces) == text
        assert len(pieces) == len(ids)


def test_a_character_that_is_split_over_tokens_is_its_first_ones_and_a_part_alone_is_replaced(tmp_path):
    tokenizer = load_tokenizer(make_model(tmp_path / "m"))
    ids = tokenizer.encode("a日b", add_special_tokens=False)
    assert len(ids) == 5
    assert token_pieces(tokenizer, ids) == ["a", "日", "", "", "b"]
    assert token_pieces(tokenizer, ids[:2]) == ["a", "\ufffd"]


def test_ids_that_logits_have_and_the_tokenizer_lacks_have_no_text(tmp_path):
    tokenizer = load_tokenizer(make_model(tmp_path / "m"))
    beyond = len(tokenizer) + 5
    (known,) = tokenizer.encode("a", add_special_tokens=False)
    assert token_pieces(tokenizer, [known, beyond, known]) == ["a", "", "a"]
    assert text_of(tokenizer, [beyond, known]) == "a"


def test_token_texts_are_exact_in_a_sentencepiece_vocabulary_with_bytes():
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581the", "\u2581", "cat", "."]
    backend = Tokenizer(
        models.BPE({word: k for k, word in enumerate(words)}, [], byte_fallback=True, unk_token="<unk>")
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=True)
    the, space, cat, stop = range(259, 263)
    face = [3 + byte for byte in "🙂".encode()]
    assert text_of(tokenizer, [the, space, cat, space, stop]) == " the cat ."
    assert token_pieces(tokenizer, [the, *face, cat]) == [" the", "🙂", "", "", "", "cat"]


# ---- configurations of other shapes (P06)


def with_config(folder: Path, config: Any) -> Path:
    make_model(folder)
    (folder / "config.json").write_text(json.dumps(config.to_dict() if hasattr(config, "to_dict") else config))
    return folder


def test_a_nested_configuration_is_that_of_its_text_model(tmp_path):
    text = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 99}
    for kind in ("gemma3", "mistral3", "qwen3_5"):
        config = CONFIG_MAPPING[kind](text_config=text).to_dict() | {"architectures": ["Nested"]}
        manifest = resolved(with_config(tmp_path / kind, config), prompt="raw")
        sizes = [manifest[key] for key in ("n_layers", "n_heads", "n_key_value_heads", "n_positions")]
        assert sizes == [3, 4, 2, 99]


def test_a_configuration_of_other_names_is_read(tmp_path):
    old = CONFIG_MAPPING["gpt_neox"](num_hidden_layers=2, num_attention_heads=4, hidden_size=32)
    manifest = resolved(with_config(tmp_path / "neox", old), prompt="raw")
    assert (manifest["n_key_value_heads"], manifest["architecture"]) == (4, "GPTNeoX")
    older = CONFIG_MAPPING["gpt2"](n_layer=3, n_head=2, n_embd=32, n_positions=77)
    manifest = resolved(with_config(tmp_path / "gpt2", older), prompt="raw")
    assert [manifest[key] for key in ("n_layers", "n_heads", "n_positions")] == [3, 2, 77]


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("mamba", "mamba has no attention heads"),
        ("t5", "t5 has an encoder"),
        ("rwkv", "rwkv has no attention heads"),
    ],
)
def test_a_model_that_is_no_decoder_with_heads_is_refused_by_name(tmp_path, kind, fault):
    with pytest.raises(ModelError, match=fault):
        resolved(with_config(tmp_path / "m", CONFIG_MAPPING[kind]()), prompt="raw")


def test_the_documented_table_is_that_of_the_registered_formats():
    assert f"{BEGIN}{formats_table()}{END}" in Path("docs/formats.md").read_text()


# ---- models known only to their server


def served(name: str, **changes: Any) -> dict[str, Any]:
    """A study's entry for a model that is asked by chat."""
    endpoint = {"base_url": "http://host/v1", "model": "m", "kind": "chat"}
    return {"prompt": "chat", "reasoning_format": name, "endpoint": endpoint, **changes}


def requests_of(folder: Path, entry: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The manifest, and the bodies of the requests for one problem in both conditions."""
    puzzles = {"kind": "problems", "path": "resources/datasets/puzzles.jsonl"}
    known = {"study": "test", "seed": 1, "models": {"m": entry}, "datasets": {"d": puzzles}}
    study = load_study(known | {"decodings": {"greedy": {"temperature": 0}}})
    resolve_model(folder / "m.json", stage_settings(study, "models", "m"))
    manifest = json.loads((folder / "m.json").read_text())
    problems, bodies = pd.DataFrame({"uid": ["p"], "problem": [QUESTION]}), []
    for condition in CONDITIONS:
        settings = stage_settings(study, "traces", "m", "d", condition=condition, decoding="greedy")
        (request,) = build_requests(problems, manifest, settings)
        bodies.append(request_body(request, settings["endpoint"])[1])
    return manifest, bodies[0], bodies[1]


def test_a_server_is_told_to_think_and_not_to_think_as_the_format_says(tmp_path):
    manifest, asked, declined = requests_of(tmp_path, served("qwen3", without_reasoning="native"))
    assert manifest["reasoning_format"] == "qwen3" and manifest["declines_reasoning"]
    assert asked["chat_template_kwargs"] == {"enable_thinking": True}
    assert asked["messages"][-1] == {"role": "assistant", "content": "<think>\n"}
    assert declined["chat_template_kwargs"] == {"enable_thinking": False}
    assert declined["messages"] == [{"role": "user", "content": QUESTION}]


def test_a_servers_reasoning_is_opened_and_closed_in_the_formats_own_delimiters(tmp_path):
    _, asked, closed = requests_of(tmp_path, served("magistral", system_turn={"with_reasoning": "Think."}))
    assert asked["messages"] == [
        {"role": "system", "content": "Think."},
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "[THINK]"},
    ]
    assert closed["messages"][-1]["content"] == f"[THINK]{FINISHED_STUB}[/THINK]"


def test_a_servers_text_is_cut_at_the_formats_delimiters():
    form = FORMATS["command_a"].function()
    text = f"{REASONING}{form.close}{form.answer_open}{ANSWER}{form.answer_close}"
    found = segment([0], [1], text_marks(form, [form.opening, text]))
    assert (found.n_closes, found.answer) == (1, ANSWER)
    declined = segment([0], [1], text_marks(form, ["", f"{form.answer_open}{ANSWER}{form.answer_close}"]), True)
    assert (declined.n_closes, declined.answer) == (1, ANSWER)
    assert segment([0], [1], text_marks(form, ["", f"{form.open}Hm.{form.close}{ANSWER}"]), True).n_closes == 2


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ({"reasoning_format": "r2"}, r"reasoning_format: 'r2' is not a known reasoning format; known: r1, .*harmony"),
        ({"reasoning_format": {"open": "<a>"}}, r"close: missing"),
        ({"reasoning_format": "r1", "without_reasoning": "native", "prompt": "chat"}, "cannot be asked not to think"),
        ({"without_reasoning": "native"}, "native needs the chat template; set prompt: chat"),
        ({"system_turn": {"with_reasoning": "Hm."}}, "a raw prompt has no chat template; set prompt: chat"),
        ({"template_arguments": {"always": {}}}, "template_arguments"),
    ],
)
def test_what_does_not_fit_a_format_is_told_when_the_study_is_read(entry, fault):
    puzzles = {"kind": "problems", "path": "resources/datasets/puzzles.jsonl"}
    known = {"study": "test", "seed": 1, "models": {"m": {"path": str(TINY), **entry}}, "datasets": {"d": puzzles}}
    with pytest.raises(ConfigError, match=fault):
        load_study(known | {"decodings": {"greedy": {"temperature": 0}}})


# ---- engines that make text


@pytest.mark.parametrize("kind", ["LlamaTokenizerFast", "LlamaTokenizer"])
def test_an_engine_that_makes_text_keeps_the_spaces_that_autotokenizer_drops(tmp_path, kind):
    shutil.copytree(TINY.with_name("tiny-llama"), tmp_path / "m")
    path = tmp_path / "m/tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": kind}))
    text = "The quick  brown \\boxed{7} ."
    ids = load_tokenizer(tmp_path / "m").encode(text, add_special_tokens=False)
    assert AutoTokenizer.from_pretrained(tmp_path / "m").decode(ids) != text
    engine = AutoTokenizer.from_pretrained(engine_tokenizer(tmp_path / "m")["tokenizer"])
    assert engine.decode(ids) == text
    assert engine.encode(text, add_special_tokens=False) == ids
