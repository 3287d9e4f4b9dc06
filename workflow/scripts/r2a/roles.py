"""Names that stores, tables and figures share (METHOD sections 2 to 4)."""

# how a reasoning is perturbed
CUT, FILLER, OTHER_REASONING = "cut", "filler", "other_reasoning"
FIRST_RESULT, LAST_RESULT = "first_result", "last_result"
UNTOUCHED = "cut_100"  # the whole reasoning

# which heads are ablated: none, the Reasoning-Focus Heads, or random ones of their layers
UNABLATED, RFH, RANDOM = "unablated", "rfh", "random"
# how a head is ablated, and what is said of it
ABLATION_MODES = {
    "zero": "set to zero",
    "mean": "set to their mean",
    "cut_off": "cut off from the reasoning",
}

# the token roles that both runs of a pair have
ANSWER_ROLE = "answer"  # the answer within the probe, the reasoning's last line
CLOSE_ROLE = "</think>"
FINAL_ROLE = "final"  # the token right before the predicted answer
CONTROL_ROLE = "random reasoning token"
KEY_ROLES = (ANSWER_ROLE, CLOSE_ROLE, FINAL_ROLE)  # where single heads are patched, and controls put in
PROBE, ENDING = "probe: ", "ending: "  # prefixes of the other tokens' roles

# what is put into which run
CLEAN_TO_CORRUPTED, CORRUPTED_TO_CLEAN = "clean_to_corrupted", "corrupted_to_clean"
DIRECTIONS = (CLEAN_TO_CORRUPTED, CORRUPTED_TO_CLEAN)

# how right and wrong answers are compared: samples of one problem, or answers to different ones
WITHIN, BETWEEN = "within problems", "between problems"
