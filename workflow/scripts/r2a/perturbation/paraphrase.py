"""The reasoning in other words, by rules (METHOD section 2; Lanham et al., 2023, ask a model instead).

The rules replace English words and phrases by others that mean the same wherever a rule's pattern matches: contractions
are written out, connectives and set phrases are exchanged. Sentence order, numbers, formulas and all other words stay.
So this is a light paraphrase: it shows what an answer loses that depends on the exact wording, and little more.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from r2a.extensions import perturbation_kind
from r2a.perturbation.reasoning import Given, NotPerturbed, Perturbed, Reasoning
from r2a.text.sentences import FORMULA_OR_CODE

# pattern of whole words: what stands in its place. One in lower case is also found with a capital, which is taken over.
RULES = {
    # contractions
    "can't": "cannot", "won't": "will not", "don't": "do not", "doesn't": "does not", "didn't": "did not",
    "isn't": "is not", "aren't": "are not", "wasn't": "was not", "weren't": "were not", "wouldn't": "would not",
    "shouldn't": "should not", "couldn't": "could not", "haven't": "have not", "I'm": "I am", "we're": "we are",
    "they're": "they are", "I'll": "I will", "we'll": "we will", "I've": "I have", "we've": "we have",
    "let's": "let us", "it's(?! been| got)": "it is", "that's(?! been| got)": "that is",
    # how a step begins
    "okay,": "all right,", "wait,": "hold on,", "hmm,": "well,", "Alternatively,": "As another way,",
    "let me check": "I will verify", "(?<!n't )let me(?! know)": "I will", "First,": "To begin with,",
    "Next,": "After that,", "Finally,": "At last,", "However,": "Still,", "Similarly,": "In the same way,",
    # connectives
    "therefore": "hence", "hence": "therefore", "thus": "so", "because(?! of)": "since", "in order to": "so as to",
    "for example": "for instance", "for instance": "for example", "that is,": "in other words,",
    "in other words,": "that is,", "as a result": "as a consequence", "In addition,": "Besides,",
    "Moreover,": "In addition,",
    # set phrases
    "maybe": "perhaps", "perhaps": "maybe", "I think": "I believe", "we need to": "we have to",
    "I need to": "I have to", "is equal to": "equals", "equals": "is equal to", "start by": "begin by",
    "start with": "begin with", "step by step": "one step after another", "in total": "altogether",
    "(?<![Tt]he )final answer is": "the final answer is", "the final answer is": "the answer in the end is",
}  # fmt: skip


def _either_case(pattern: str) -> str:
    """A pattern that begins in lower case, also with a capital."""
    return re.sub(r"^((?:\(\?.*?\))?)([a-z])", lambda m: f"{m[1]}[{m[2]}{m[2].upper()}]", pattern)


PATTERN = re.compile(
    "|".join(rf"(?P<r{k}>(?<![\w']){_either_case(pattern)}(?![\w']))" for k, pattern in enumerate(RULES))
)


@perturbation_kind(label="in other words, by rules")
def paraphrase(given: Given) -> Perturbed:
    """With its contractions, connectives and set phrases (English) reworded by rules; everything else stays."""
    ids, n_kept = reword(given.trace.reasoning, given.tokenizer)
    return Perturbed(ids, kept_share=n_kept / len(given.trace.reasoning.token_ids))


def reword(reasoning: Reasoning, tokenizer: Any) -> tuple[list[int], int]:
    """The reasoning, reworded wherever a rule matches, and the number of its tokens that are kept.

    Only the tokens that contain a match are retokenized, from their text. Raises NotPerturbed if no rule matches.
    """
    text = "".join(reasoning.pieces)
    ends = [0, *accumulate(map(len, reasoning.pieces))]  # ends[k]: where token k begins
    groups: list[tuple[int, int, list[tuple[int, int, str]]]] = []  # places in neighbouring tokens, and these tokens
    for place in _places(text):
        first, stop = bisect_right(ends, place[0]) - 1, bisect_left(ends, place[1])
        if groups and first < groups[-1][1]:
            groups[-1] = (groups[-1][0], stop, [*groups[-1][2], place])
        else:
            groups.append((first, stop, [place]))
    if not groups:
        raise NotPerturbed("no rule of paraphrase fits")
    ids, n_kept, done = [], len(reasoning.token_ids), 0
    for first, stop, places in groups:
        written, at = "", ends[first]
        for start, end, words in places:
            written, at = written + text[at:start] + words, end
        written += text[at : ends[stop]]
        ids += [*reasoning.token_ids[done:first], *tokenizer.encode(written, add_special_tokens=False)]
        n_kept, done = n_kept - (stop - first), stop
    return [*ids, *reasoning.token_ids[done:]], n_kept


def _places(text: str) -> Iterator[tuple[int, int, str]]:
    """Where rules match outside formulas, in order, and the replacements."""
    formulas = [match.span() for match in FORMULA_OR_CODE.finditer(text)]
    rules = list(RULES.values())
    for match in PATTERN.finditer(text):
        start, end = match.span()
        if any(start < formula_end and formula_start < end for formula_start, formula_end in formulas):
            continue
        words = rules[int(str(match.lastgroup)[1:])]
        yield start, end, words[0].upper() + words[1:] if match.group()[0].isupper() else words
