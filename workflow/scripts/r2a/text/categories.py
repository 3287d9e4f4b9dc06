"""The function of a sentence in the reasoning, recognized by its words (METHOD section 5).

The categories follow Bogdan et al. 2025 (arXiv 2506.19143), who let a language model judge them. Cue words are English
except for those of backtracking (r2a.text.cues), so sentences in other languages are mostly "other".
"""

import re

from r2a.text.cues import ALL_CUE_WORDS, is_cue_token

CHECKS = re.compile(
    r"\b(?:double[- ]?check|re-?check|check|verif\w+|make sure|confirm\w*|sanity|match(?:es)?|"
    r"(?:that|this|it|which|everything|all|answer)(?:'s| is| seems| looks| does seem| should be) "
    r"(?:all |indeed |also )?(?:correct|right|fine|consistent|good|okay)|seems? (?:correct|right|consistent))\b|✔|✓|✅",
    re.IGNORECASE,
)
ANSWERS = re.compile(
    r"\\boxed|\bfinal answer\b|\b(?:the|my) answer (?:is|should be|must be)\b|\banswer:|答案", re.IGNORECASE
)
PLANS = re.compile(
    r"\b(?:let me|let's|let us|i(?:'ll| will| need to| should| have to| can)|we(?:'ll| need to| should| have to| can)|"
    r"first(?:ly)?|next|the (?:problem|question) asks|to (?:find|solve|determine|figure out|get))\b",
    re.IGNORECASE,
)
COMPUTES = re.compile(r"[=≈<>≤≥]|\d\s*[-+*/×÷^]\s*\d|\\(?:frac|times|cdot|sqrt|sum)|\d")
BACKTRACKS = [word for word in ALL_CUE_WORDS if not CHECKS.fullmatch(word)] + ["Actually", "mistake", "instead"]

CATEGORIES = {
    "answer": "states the answer",
    "backtrack": "backtracks",
    "check": "checks",
    "plan": "plans",
    "compute": "computes",
    "other": "other",
}


def category(sentence: str) -> str:
    """The first of CATEGORIES that matches a sentence's words."""
    if ANSWERS.search(sentence):
        return "answer"
    if any(is_cue_token([sentence], BACKTRACKS)):
        return "backtrack"
    for name, words in (("check", CHECKS), ("plan", PLANS), ("compute", COMPUTES)):
        if words.search(sentence):
            return name
    return "other"
