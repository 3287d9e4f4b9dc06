"""Names that stores, tables and figures share (METHOD sections 2 to 5)."""

# how a reasoning is perturbed
CUT, FILLER, OTHER_REASONING = "cut", "filler", "other_reasoning"
UNTOUCHED = "cut_100"  # the whole reasoning

# which heads are ablated: none; the Reasoning-Focus Heads (RFHs); random ones of their layers; ones that write as much
# and attend to the first token as much; those that attend most to the prompt, or write most of the reasoning; or the
# RFHs, cut off from the prompt instead
UNABLATED, RFH, RANDOM = "unablated", "rfh", "random"
MATCHED, PROMPT_HEADS, CONTRIBUTION = "matched", "prompt", "contribution"
RFH_FROM_PROMPT = "rfh_from_prompt"
ALL_HEADS = "all"  # of a model: those that a sentence is hidden from, or by which a patch reaches the answer

# how a head is ablated, and what is said of it
ABLATION_MODES = {
    "zero": "set to zero",
    "mean": "set to their mean in other traces",
    "resample": "set to another trace's output",
    "cut_off": "cut off from the reasoning",
    "moved": "moved to another sentence of the reasoning",
    "sharpened": "sharpened within the reasoning",
}

# what opens the answer of a reasoning that is ended early
STUB = "\n\nThe final answer is \\boxed{"

# what is measured of a reasoning's sentences
SENTENCE_MEASURES = {
    "belief_change": "change of belief",
    "effect": "suppression in all heads",
    "effect_rfh": "suppression in the RFHs",
    "effect_matched": "suppression in matched heads",
    "read": "reading by all heads",
    "read_rfh": "reading by the RFHs",
    "read_matched": "reading by matched heads",
    "importance": "resampling",
}

# the token roles that both runs of a pair have
ANSWER_ROLE = "answer"  # the answer within the probe, the reasoning's last line; without one, its last mention
CLOSE_ROLE = "</think>"
FINAL_ROLE = "final"  # the token right before the predicted answer
CONTROL_ROLE = "random reasoning token"
FIRST_MENTION, SENTENCE_END = "first mention of the answer", "end of the answer's sentence"
REASONING_END = "end of the reasoning"  # these three, where no probe is added
KEY_ROLES = (ANSWER_ROLE, CLOSE_ROLE, FINAL_ROLE)  # where single heads are patched, and controls put in
PROBE, ENDING = "probe: ", "ending: "  # prefixes of the other tokens' roles

# why a pair is left out of patching, in the order in which it is found
INVALID, WRONG = "a trace is not valid", "an answer is wrong"
SPLIT_IN_BOX, SPLIT_IN_PROBE = "an answer is not one token in the box", "an answer is not one token in the probe"
NO_REASONING, OWN_ANSWER_NOT_PREFERRED = "no reasoning before the probe", "a run does not prefer its own answer"
TOO_LONG = "its runs do not fit into memory"
NO_MENTION = "a reasoning does not mention its answer"

# what is put into which run
CLEAN_TO_CORRUPTED, CORRUPTED_TO_CLEAN = "clean_to_corrupted", "corrupted_to_clean"
DIRECTIONS = (CLEAN_TO_CORRUPTED, CORRUPTED_TO_CLEAN)

# by which heads a patch of the reasoning reaches the answer's tokens: all; the RFHs; as many matched ones; all but RFHs
REST = "rest"
PATHS = (ALL_HEADS, RFH, MATCHED, REST)

# how right and wrong answers are compared: samples of one problem, or answers to different ones
WITHIN, BETWEEN = "within problems", "between problems"
