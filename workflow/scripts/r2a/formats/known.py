"""The reasoning formats of published models, from their chat templates and the reasoning parsers of vLLM."""

from r2a.formats.registry import Asked, ReasoningFormat, reasoning_format

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ENABLE, DISABLE = Asked({"enable_thinking": True}), Asked({"enable_thinking": False})


@reasoning_format(label="R1 and its distills, QwQ, Qwen3-Thinking")
def r1() -> ReasoningFormat:
    """Always thinks; the template opens the reasoning."""
    return ReasoningFormat(THINK_OPEN, THINK_CLOSE)


@reasoning_format(label="DeepSeek-V3.1, V3.2", signs=("Assistant\uff5c>", "not thinking", "</think>"))
def deepseek_v3() -> ReasoningFormat:
    """Does not think unless asked to; a prompt without reasoning ends in </think> alone."""
    think, no_think = Asked({"thinking": True}), Asked({"thinking": False})
    return ReasoningFormat(THINK_OPEN, THINK_CLOSE, after_open="", think=think, no_think=no_think)


@reasoning_format(label="Qwen3 (hybrid)", signs=("<|im_start|>", "enable_thinking", "</think>"))
def qwen3() -> ReasoningFormat:
    """The model opens the reasoning itself; asked not to think, the template closes an empty one."""
    return ReasoningFormat(THINK_OPEN, THINK_CLOSE, think=ENABLE, no_think=DISABLE)


@reasoning_format(label="Qwen3.5", signs=("<|im_start|>", "enable_thinking", "</think>", "<|vision_start|>"))
def qwen3_5() -> ReasoningFormat:
    """The template opens the reasoning, or closes an empty one: the small models' does so by default."""
    return ReasoningFormat(THINK_OPEN, THINK_CLOSE, think=ENABLE, no_think=DISABLE)


@reasoning_format(label="GLM-4.5, 4.6, 4.7", signs=("[gMASK]", "enable_thinking"))
def glm4() -> ReasoningFormat:
    """Told not to think, the template adds /nothink to the question and closes an empty reasoning."""
    return ReasoningFormat(THINK_OPEN, THINK_CLOSE, before_open="\n", after_open="", think=ENABLE, no_think=DISABLE)


@reasoning_format(label="gpt-oss", signs=("<|channel|>", "<|start|>"))
def harmony() -> ReasoningFormat:
    """Thinks in the channel analysis, answers in the channel final; how much it thinks is its reasoning_effort."""
    final = "<|end|><|start|>assistant<|channel|>final<|message|>"
    analysis = "<|channel|>analysis<|message|>"
    return ReasoningFormat(analysis, final, after_open="", think=Asked({"reasoning_effort": "medium"}))


@reasoning_format(label="Magistral", signs=("[THINK]",))
def magistral() -> ReasoningFormat:
    """Thinks as its system turn says; the template has one where none is given."""
    return ReasoningFormat("[THINK]", "[/THINK]", after_open="")


@reasoning_format(label="Mistral Small 4", signs=("[THINK]", "reasoning_effort"))
def mistral4() -> ReasoningFormat:
    """Thinks if its reasoning_effort is high; otherwise it is none."""
    think, no_think = Asked({"reasoning_effort": "high"}), Asked({"reasoning_effort": "none"})
    return ReasoningFormat("[THINK]", "[/THINK]", after_open="", think=think, no_think=no_think)


@reasoning_format(label="Seed-OSS", signs=("<seed:think>",))
def seed_oss() -> ReasoningFormat:
    """A thinking budget of 0 opens the model's remark on it, which the model would continue."""
    remark = "The current thinking budget is 0, so I will directly start answering the question."
    no_think = Asked({"thinking_budget": 0}, ending=f"{remark}</seed:cot_budget_reflect>\n</seed:think>")
    return ReasoningFormat("<seed:think>", "</seed:think>", after_open="", no_think=no_think)


@reasoning_format(label="EXAONE-Deep", signs=("[|assistant|]", "<thought>"))
def exaone_deep() -> ReasoningFormat:
    """Always thinks; the template opens the reasoning."""
    return ReasoningFormat("<thought>", "</thought>")


@reasoning_format(label="EXAONE 4", signs=("[|assistant|]", "enable_thinking"))
def exaone4() -> ReasoningFormat:
    """Does not think unless asked to: by default the template closes an empty reasoning."""
    return ReasoningFormat(THINK_OPEN, THINK_CLOSE, think=ENABLE, no_think=DISABLE)


@reasoning_format(label="Command A Reasoning", signs=("<|START_THINKING|>",))
def command_a() -> ReasoningFormat:
    """The answer stands between delimiters of its own."""
    return ReasoningFormat(
        "<|START_THINKING|>", "<|END_THINKING|>", answer_open="<|START_RESPONSE|>", answer_close="<|END_RESPONSE|>",
        after_open="", think=Asked({"reasoning": True}), no_think=Asked({"reasoning": False}),
    )  # fmt: skip


@reasoning_format(label="Granite 3.2", signs=("<|start_of_role|>", "Here is my thought process:"))
def granite() -> ReasoningFormat:
    """Says in prose what follows; unless asked to think, it just answers."""
    return ReasoningFormat(
        "Here is my thought process:", "Here is my response:", ("Here's my response:",), after_open="",
        think=Asked({"thinking": True}), no_think=Asked({"thinking": False}),
    )  # fmt: skip


@reasoning_format(label="Granite 3.3", signs=("<|start_of_role|>", "<think></think>", "<response></response>"))
def granite_tags() -> ReasoningFormat:
    """Thinks and answers between tags of plain text; unless asked to think, it just answers."""
    return ReasoningFormat(
        THINK_OPEN, THINK_CLOSE, answer_open="<response>", answer_close="</response>", after_open="",
        think=Asked({"thinking": True}), no_think=Asked({"thinking": False}),
    )  # fmt: skip


@reasoning_format(label="Gemma 4", signs=("<|channel>", "<channel|>"))
def gemma() -> ReasoningFormat:
    """Thinks in the channel thought where its system turn says so; the larger models' template closes an empty one."""
    return ReasoningFormat("<|channel>thought\n", "<channel|>", after_open="", think=ENABLE, no_think=DISABLE)


@reasoning_format(label="OLMo 3 Think", signs=("Olmo", "<think>"))
def olmo3() -> ReasoningFormat:
    """Always thinks; the template opens the reasoning, and tags are several tokens."""
    return ReasoningFormat(THINK_OPEN, THINK_CLOSE, after_open="")


@reasoning_format(label="Hunyuan-A13B", signs=("<|extra_0|>", "enable_thinking"))
def hunyuan_a13b() -> ReasoningFormat:
    """Tags are several tokens, and the answer has tags too."""
    return ReasoningFormat(
        THINK_OPEN, THINK_CLOSE, answer_open="<answer>", answer_close="</answer>", think=ENABLE, no_think=DISABLE
    )


@reasoning_format(label="Hunyuan 0.5B to 7B", signs=("hy_Assistant", "enable_thinking"))
def hunyuan() -> ReasoningFormat:
    """As Hunyuan-A13B, with other turns."""
    return hunyuan_a13b()


@reasoning_format(label="Apertus", signs=("<|inner_prefix|>", "<|inner_suffix|>"))
def apertus() -> ReasoningFormat:
    """A developer turn says whether to deliberate; the model opens the reasoning itself."""
    return ReasoningFormat("<|inner_prefix|>", "<|inner_suffix|>", after_open="", think=ENABLE, no_think=DISABLE)


@reasoning_format(label="Solar Open", signs=("<|begin|>", "<|think|>", "<|content|>"))
def solar_open() -> ReasoningFormat:
    """Thinks and answers in two turns; at the least effort, the template closes a turn without thoughts."""
    content = "<|begin|>assistant<|content|>"
    no_think = Asked({"reasoning_effort": "minimal"}, ending="<|content|>")
    return ReasoningFormat(
        "<|think|>", f"<|end|>{content}", after_open="", think=Asked({"reasoning_effort": "high"}), no_think=no_think
    )


@reasoning_format(label="ERNIE 4.5 Thinking", signs=("<global_setting>", "<think>", "<response>"))
def ernie_thinking() -> ReasoningFormat:
    """Always thinks; the template opens the reasoning, and the answer has tags."""
    return ReasoningFormat(THINK_OPEN, THINK_CLOSE, answer_open="<response>", answer_close="</response>")


@reasoning_format(label="Apriel 1.5, 1.6 Thinker", signs=("[BEGIN FINAL RESPONSE]",))
def apriel() -> ReasoningFormat:
    """Says in prose that it reasons; the answer has markers, of which only some models write the second."""
    return ReasoningFormat(
        "Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]", answer_close="[END FINAL RESPONSE]"
    )


@reasoning_format(label="MiniMax-M2", signs=("]~b]ai", "<think>"))
def minimax_m2() -> ReasoningFormat:
    """Always thinks; the template opens the reasoning."""
    return ReasoningFormat(THINK_OPEN, THINK_CLOSE)


@reasoning_format(label="Llama-Nemotron v1", signs=("detailed thinking",))
def nemotron_v1() -> ReasoningFormat:
    """A system turn says whether to think; without one, it just answers. Few of its templates show it, so name it."""
    on, off = Asked(system="detailed thinking on"), Asked(system="detailed thinking off")
    return ReasoningFormat(THINK_OPEN, THINK_CLOSE, think=on, no_think=off)


@reasoning_format(label="Nemotron Nano v2, Llama-Nemotron Super v1.5", signs=("<TOOLCALL>", "/no_think"))
def nemotron_v2() -> ReasoningFormat:
    """/no_think in the system turn closes an empty reasoning."""
    return ReasoningFormat(THINK_OPEN, THINK_CLOSE, no_think=Asked(system="/no_think"))


@reasoning_format(label="SmolLM3", signs=("<|im_start|>", "enable_thinking", "</think>", "Reasoning Mode"))
def smollm3() -> ReasoningFormat:
    """The template's system turn says /think or /no_think, and the date."""
    return ReasoningFormat(THINK_OPEN, THINK_CLOSE, think=ENABLE, no_think=DISABLE)


@reasoning_format(label="Kimi-K2-Thinking", signs=("<|im_assistant|>", "<think>"))
def kimi_k2() -> ReasoningFormat:
    """Always thinks; the model opens the reasoning itself."""
    return ReasoningFormat(THINK_OPEN, THINK_CLOSE, after_open="")


@reasoning_format(label="Kimi-K3", signs=("<|open|>", "<|sep|>", "thinking"))
def kimi_k3() -> ReasoningFormat:
    """The template opens the reasoning, or the answer if it is told not to think."""
    opened, closed, end = "<|open|>", "<|close|>", "<|sep|>"
    return ReasoningFormat(
        f"{opened}think{end}", f"{closed}think{end}", answer_open=f"{opened}response{end}",
        answer_close=f"{closed}response{end}{closed}message{end}", after_open="", think=Asked({"thinking": True}),
        no_think=Asked({"thinking": False}),
    )  # fmt: skip


@reasoning_format(label="Phi-4-reasoning", signs=("<|im_sep|>", "<think>"))
def phi4_reasoning() -> ReasoningFormat:
    """Always thinks, as its template's system turn says; the model opens the reasoning itself."""
    return ReasoningFormat(THINK_OPEN, THINK_CLOSE)
