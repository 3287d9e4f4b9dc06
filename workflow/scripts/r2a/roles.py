"""Names of the token roles that both runs of a pair share (METHOD section 4), as stored and drawn."""

ANSWER_ROLE = "answer"  # the answer within the probe, the reasoning's last line
CLOSE_ROLE = "</think>"
FINAL_ROLE = "final"  # the token right before the predicted answer
CONTROL_ROLE = "random reasoning token"
PROBE, ENDING = "probe: ", "ending: "  # prefixes of the other tokens' roles
