"""Small models of every reasoning format, with tokenizers and templates shaped like the published ones.

The tokenizers are copies of tiny-qwen's with added tokens; if a model's delimiters are text of several tokens, its copy
has no token for them. The templates have the essential features of the published ones: turns, what they do when told to
think or not to think, and what they write by default.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AddedToken

from r2a.models import load_tokenizer

TINY = Path("resources/models/tiny-qwen")
CHATML = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for turn in messages %}<|start_header_id|>{{ turn.role }}<|end_header_id|>\n\n"
    "{{ turn.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
SMOLLM3_SYSTEM = (
    "<|im_start|>system\nToday Date: {{ strftime_now('%d %B %Y') }}\n"
    "Reasoning Mode: {{ '/think' if enable_thinking else '/no_think' }}<|im_end|>\n"
)


@dataclass(frozen=True)
class Sample:
    """A model of a format: its template and added tokens, and how its prompts end in both conditions.

    opened: the prompt's end with reasoning. declined: without reasoning, by the model's own switch; None if it has
    none. before, after: what the model writes around its answer's text. has_tags: whether <think> and </think> are
    tokens.
    """

    template: str
    opened: str
    declined: str | None
    tokens: tuple[str, ...] = ()
    before: str = ""
    after: str = ""
    has_tags: bool = True
    is_given: bool = False  # as a name, because its template does not reveal it


NO_TAGS: dict[str, Any] = {"has_tags": False}
HARMONY = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>")
SAMPLES = {
    "r1": Sample(CHATML.replace("assistant\n", "assistant\n<think>\n"), "assistant\n<think>\n", None),
    "deepseek_v3": Sample(
        "{% if not thinking is defined %}{% set thinking = false %}{% endif %}{{ bos_token }}{% for turn in messages %}"
        "<\uff5cUser\uff5c>{{ turn.content }}{% endfor %}{% if add_generation_prompt %}<\uff5cAssistant\uff5c>"
        "{% if not thinking %}{{ '</think>' }}{% else %}{{ '<think>' }}{% endif %}{% endif %}",
        "<\uff5cAssistant\uff5c><think>", "<\uff5cAssistant\uff5c></think>",
    ),
    "qwen3": Sample(
        CHATML + "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}",
        "assistant\n<think>\n", "assistant\n<think>\n\n</think>\n\n",
    ),
    "qwen3_5": Sample(
        "{# <|vision_start|> #}" + CHATML + "{% if add_generation_prompt %}{% if enable_thinking is defined and "
        "enable_thinking %}{{ '<think>\n' }}{% else %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
        "assistant\n<think>\n", "assistant\n<think>\n\n</think>\n\n",
    ),
    "glm4": Sample(
        "[gMASK]<sop>\n{% for turn in messages %}<|{{ turn.role }}|>\n{{ turn.content }}{{ '/nothink' if "
        "enable_thinking is defined and not enable_thinking else '' }}{% endfor %}{% if "
        "add_generation_prompt %}<|assistant|>"
        "{{ '\n<think></think>' if enable_thinking is defined and not enable_thinking else '' }}{% endif %}",
        "<|assistant|>\n<think>", "/nothink<|assistant|>\n<think></think>", ("<|assistant|>", "<|user|>"),
    ),
    "harmony": Sample(
        "<|start|>system<|message|>Current date: {{ strftime_now('%Y-%m-%d') }}\n\nReasoning: {{ reasoning_effort }}"
        "<|end|>{# <|channel|> #}{% for turn in messages %}<|start|>{{ turn.role }}<|message|>{{ turn.content }}<|end|>"
        "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}",
        "<|end|><|start|>assistant<|channel|>analysis<|message|>", None, HARMONY, **NO_TAGS,
    ),
    "magistral": Sample(
        "{{ bos_token }}{% if messages[0].role != 'system' %}[SYSTEM_PROMPT]Think between [THINK] and [/THINK]."
        "[/SYSTEM_PROMPT]{% endif %}{% for turn in messages %}[INST]{{ turn.content }}[/INST]{% endfor %}",
        "[/INST][THINK]", None, ("[THINK]", "[/THINK]", "[INST]", "[/INST]"), **NO_TAGS,
    ),
    "seed_oss": Sample(
        "{% if thinking_budget == 0 %}<seed:bos>system\nYour thinking budget is 0.<seed:eos>{% endif %}"
        "{% for turn in messages %}<seed:bos>{{ turn.role }}\n{{ turn.content }}<seed:eos>{% endfor %}"
        "{% if add_generation_prompt %}<seed:bos>assistant\n{% if thinking_budget == 0 %}<seed:think>"
        "<seed:cot_budget_reflect>{% endif %}{% endif %}",
        "<seed:bos>assistant\n<seed:think>",
        "<seed:think><seed:cot_budget_reflect>The current thinking budget is 0, so I will directly start answering the "
        "question.</seed:cot_budget_reflect>\n</seed:think>",
        ("<seed:think>", "</seed:think>", "<seed:bos>", "<seed:eos>"), **NO_TAGS,
    ),
    "exaone_deep": Sample(
        "{% for turn in messages %}[|{{ turn.role }}|]{{ turn.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}{{ '[|assistant|]<thought>\n' }}{% endif %}",
        "[|assistant|]<thought>\n", None, ("<thought>", "</thought>"), **NO_TAGS,
    ),
    "exaone4": Sample(
        "{% for turn in messages %}[|{{ turn.role }}|]\n{{ turn.content }}[|endofturn|]\n{% endfor %}"
        "{% if add_generation_prompt %}[|assistant|]\n{% if enable_thinking is defined and enable_thinking %}"
        "{{ '<think>\n' }}{% else %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
        "[|assistant|]\n<think>\n", "[|assistant|]\n<think>\n\n</think>\n\n",
    ),
    "command_a": Sample(
        "{{ bos_token }}{% for turn in messages %}<|USER_TOKEN|>{{ turn.content }}{% endfor %}{% if "
        "add_generation_prompt %}<|CHATBOT_TOKEN|>{% if not reasoning %}<|START_THINKING|><|END_THINKING|>{% endif %}"
        "{% endif %}",
        "<|CHATBOT_TOKEN|><|START_THINKING|>", "<|CHATBOT_TOKEN|><|START_THINKING|><|END_THINKING|>",
        ("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        "<|START_RESPONSE|>", "<|END_RESPONSE|>", **NO_TAGS,
    ),
    "granite": Sample(
        "<|start_of_role|>system<|end_of_role|>Helpful.{% if thinking %} Write your thoughts after 'Here is my thought "
        "process:' and your response after 'Here is my response:'.{% endif %}\n{% for turn in messages %}"
        "<|start_of_role|>{{ turn.role }}<|end_of_role|>{{ turn.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}",
        "assistant<|end_of_role|>Here is my thought process:", "assistant<|end_of_role|>", **NO_TAGS,
    ),
    "granite_tags": Sample(
        "<|start_of_role|>system<|end_of_role|>Helpful.{% if thinking %} Write your thoughts between <think></think> "
        "and your response between <response></response>.{% endif %}\n{% for turn in messages %}<|start_of_role|>"
        "{{ turn.role }}<|end_of_role|>{{ turn.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}",
        "assistant<|end_of_role|><think>", "assistant<|end_of_role|>", (), "<response>", "</response>", **NO_TAGS,
    ),
    "gemma": Sample(
        "{{ bos_token }}{% if enable_thinking %}<|turn>system\n<|think|><turn|>\n{% endif %}{% for turn in messages %}"
        "<|turn>{{ turn.role }}\n{{ turn.content | trim }}<turn|>\n{% endfor %}{% if add_generation_prompt %}"
        "<|turn>model\n{% if not enable_thinking %}{{ '<|channel>thought\n<channel|>' }}{% endif %}{% endif %}",
        "<|turn>model\n<|channel>thought\n", "<|turn>model\n<|channel>thought\n<channel|>",
        ("<|channel>", "<channel|>", "<|turn>", "<turn|>"), **NO_TAGS,
    ),
    "olmo3": Sample(
        "<|im_start|>system\nYou are Olmo.<|im_end|>\n" + CHATML.replace("assistant\n", "assistant\n<think>"),
        "assistant\n<think>", None, **NO_TAGS,
    ),
    "hunyuan_a13b": Sample(
        "{{ bos_token }}{% for turn in messages %}{{ turn.content }}<|extra_0|>{% endfor %}"
        "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n' }}{% endif %}",
        "<|extra_0|><think>\n", "<|extra_0|><think>\n\n</think>\n", ("<|extra_0|>",),
        "\n<answer>\n", "\n</answer>", **NO_TAGS,
    ),
    "minimax_m2": Sample(
        "{% for turn in messages %}]~b]{{ turn.role }}\n{{ turn.content }}[e~[\n{% endfor %}"
        "{% if add_generation_prompt %}{{ ']~b]ai' ~ '\n' ~ '<think>' ~ '\n' }}{% endif %}",
        "]~b]ai\n<think>\n", None,
    ),
    "nemotron_v1": Sample(LLAMA, "assistant<|end_header_id|>\n\n<think>\n", "assistant<|end_header_id|>\n\n",
                          is_given=True, **NO_TAGS),
    "nemotron_v2": Sample(
        "{# <TOOLCALL> #}{% set ns = namespace(thinks=true) %}{% for turn in messages %}{% if '/no_think' in "
        "turn.content %}{% set ns.thinks = false %}{% endif %}{% endfor %}{% for turn in messages %}"
        "<SPECIAL_11>{{ turn.role }}\n{{ turn.content.replace('/no_think', '').strip() }}\n"
        "{% endfor %}{% if add_generation_prompt %}"
        "<SPECIAL_11>Assistant\n{{ '<think>\n\n' if ns.thinks else '<think></think>' }}{% endif %}",
        "<SPECIAL_11>Assistant\n<think>\n\n", "<SPECIAL_11>Assistant\n<think></think>", ("<SPECIAL_11>",),
    ),
    "smollm3": Sample(
        "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}" + SMOLLM3_SYSTEM + CHATML
        + "{% if add_generation_prompt and not enable_thinking %}{{ '<think>\n\n</think>\n' }}{% endif %}",
        "assistant\n<think>\n", "assistant\n<think>\n\n</think>\n",
    ),
    "mistral4": Sample(
        "{{ bos_token }}{# [THINK] #}{% for turn in messages %}[MODEL_SETTINGS]{\"reasoning_effort\": "
        "\"{{ reasoning_effort | default('none') }}\"}[/MODEL_SETTINGS][INST]{{ turn.content }}[/INST]{% endfor %}",
        "[/INST][THINK]", "[/INST]", ("[THINK]", "[/THINK]", "[INST]", "[/INST]"), **NO_TAGS,
    ),
    "hunyuan": Sample(
        "{{ bos_token }}{% for turn in messages %}<\uff5chy_User\uff5c>{{ turn.content }}{% endfor %}"
        "{% if add_generation_prompt %}<\uff5chy_Assistant\uff5c>{% if enable_thinking is defined and not "
        "enable_thinking %}{{ '<think>\n\n</think>\n' }}{% endif %}{% endif %}",
        "<\uff5chy_Assistant\uff5c><think>\n", "<\uff5chy_Assistant\uff5c><think>\n\n</think>\n",
        ("<\uff5chy_User\uff5c>", "<\uff5chy_Assistant\uff5c>", "<answer>", "</answer>"),
        "\n<answer>\n", "\n</answer>",
    ),
    "apertus": Sample(
        "{{ bos_token }}<|developer_start|>Deliberation: {{ 'enabled' if enable_thinking else 'disabled' }}"
        "<|developer_end|>{% for turn in messages %}<|{{ turn.role }}_start|>{{ turn.content }}<|{{ turn.role }}_end|>"
        "{% endfor %}{# <|inner_prefix|><|inner_suffix|> #}"
        "{% if add_generation_prompt %}<|assistant_start|>{% endif %}",
        "<|assistant_start|><|inner_prefix|>", "<|assistant_start|>",
        ("<|inner_prefix|>", "<|inner_suffix|>", "<|assistant_start|>"), **NO_TAGS,
    ),
    "solar_open": Sample(
        "{% for turn in messages %}<|begin|>{{ turn.role }}<|content|>{{ turn.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}{% if reasoning_effort in ['low', 'minimal'] %}"
        "<|begin|>assistant<|think|><|end|>{% endif %}<|begin|>assistant{% endif %}",
        "<|end|><|begin|>assistant<|think|>", "<|begin|>assistant<|think|><|end|><|begin|>assistant<|content|>",
        ("<|begin|>", "<|think|>", "<|content|>", "<|end|>"), **NO_TAGS,
    ),
    "ernie_thinking": Sample(
        "<|im_start|>system\n<global_setting>\nthink_mode=True\n</global_setting><|im_end|>\n\n"
        "{% for turn in messages %}{% if turn.role == 'assistant' %}<response>{% endif %}<|im_start|>{{ turn.role }}\n"
        "{{ turn.content }}<|im_end|>\n\n{% endfor %} {{ '<|im_start|>assistant\n<think>\n' }}",
        "<|im_start|>assistant\n<think>\n", None, ("<response>", "</response>"),
        "\n\n<response>\n", "\n</response>\n",
    ),
    "apriel": Sample(
        "{{ bos_token }}<|begin_system|>\nReason, then respond after the marker [BEGIN FINAL RESPONSE].\n"
        "{% for turn in messages %}<|begin_{{ turn.role }}|>\n{{ turn.content }}{% endfor %}"
        "{{ '\n<|begin_assistant|>\nHere are my reasoning steps:\n' }}",
        "\n<|begin_assistant|>\nHere are my reasoning steps:\n", None, (), "\n", "\n[END FINAL RESPONSE]", **NO_TAGS,
    ),
    "kimi_k3": Sample(
        "{% if thinking is undefined %}{% set thinking = true %}{% endif %}{% for turn in messages %}<|open|>message "
        'role="{{ turn.role }}"<|sep|>{{ turn.content }}<|close|>message<|sep|><|end_of_msg|>{% endfor %}'
        "{% if add_generation_prompt %}<|open|>message role=\"assistant\"<|sep|><|open|>"
        "{{ 'think' if thinking else 'response' }}<|sep|>{% endif %}",
        "<|open|>think<|sep|>", '<|open|>message role="assistant"<|sep|><|open|>response<|sep|>',
        ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"), "<|open|>response<|sep|>",
        "<|close|>response<|sep|><|close|>message<|sep|>", **NO_TAGS,
    ),
    "kimi_k2": Sample(
        "{% for turn in messages %}<|im_user|>{{ turn.role }}<|im_middle|>{{ turn.content }}<|im_end|>{% endfor %}"
        "{# <think></think> #}{% if add_generation_prompt %}<|im_assistant|>assistant<|im_middle|>{% endif %}",
        "<|im_assistant|>assistant<|im_middle|><think>", None,
    ),
    "phi4_reasoning": Sample(
        "<|im_start|>system<|im_sep|>First <think> {Thought section} </think>, then {Solution section}.<|im_end|>"
        "{% for turn in messages %}<|im_start|>{{ turn.role }}<|im_sep|>{{ turn.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}",
        "assistant<|im_sep|><think>\n", None,
    ),
}  # fmt: skip


def make_model(folder: Path, template: str | None = None, tokens: tuple[str, ...] = (), has_tags: bool = True) -> Path:
    """A copy of tiny-qwen with another template and more tokens; without tags, <think> is ordinary text.

    A completion ends in <|return|>, because <|end|> has another meaning in harmony.
    """
    shutil.copytree(TINY, folder)
    renamed = {"<|end|>": "<|return|>"}
    renamed |= {} if has_tags else {"<think>": "<|unused_0|>", "</think>": "<|unused_1|>"}
    for path in (folder / "tokenizer.json", folder / "tokenizer_config.json"):
        text = path.read_text()
        for old, new in renamed.items():
            text = text.replace(f'"{old}"', f'"{new}"')
        path.write_text(text)
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    if template is not None:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())  # its embeddings are padded, as those of many models
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 1024}))
    return folder
