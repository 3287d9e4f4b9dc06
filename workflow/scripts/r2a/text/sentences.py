r"""Where sentences end, in text as reasoning models write it (METHOD section 5).

A sentence ends at the end of a line, at a full stop, question or exclamation mark before white space, and at the marks
of scripts without spaces. Formulas, code, decimals, abbreviations, initials and list numbers are not cut. In a language
without such marks (Thai), only lines end sentences.
"""

import re
from collections.abc import Iterator, Sequence
from math import log
from statistics import median

# marks that always end a sentence: Chinese and Japanese, Hindi, Armenian, Ethiopic, Burmese, Khmer, Tibetan
FULL_STOPS = "。！？｡।॥։።။៕།"
# letters of scripts without spaces between words: kana, Han, full-width forms
UNSPACED = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff10-\uff5a\U00020000-\U0003134f"
CLOSERS = r"\"'”’»›)\]}）」』】》〉*_~`"
ANY_OPENERS = re.compile(r"[\s\"'“‘„«‹(\[{（「『【《〈*_~`¿¡\-–—•]*")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Abbreviations, without their last full stop, in lower case.
# used before a name, an example or the rest of a term: never at a sentence's end
NEVER_LAST = _words(
    """e.g i.e eg ie cf vs viz al dr mr mrs ms prof st mt gen rev hon resp incl excl approx ca bzw z.b d.h u.a vgl
    evtl ggf inkl sog mme mlle p.ex p.ej sr sra dra ej ud uds dott sig т.е см напр св им"""
)
# used before a number or a capital letter that names a thing: Fig. 3, Eq. (2), Appendix A
NUMBERED = _words(
    """fig figs eq eqs eqn eqns sec secs ch chap vol vols no nos nr p pp art ex exs prob thm lem def defs prop cor ref
    refs tab tbl alg app ver v op jan feb mar apr jun jul aug sep sept oct nov dec abb abs s núm pág cap рис табл стр
    гл п"""
)
ORDINARY = _words("no app art def s v mar sec п")  # words by themselves too, where no number follows
# used inside a sentence or at its end: the next word decides
EITHER = _words(
    """etc inc ltd co corp jr bros dept est a.m p.m b.c a.d in ft yd lb lbs oz min mins sec secs hr hrs mi sq cu gal
    max avg std deg usw u.s.w ecc т.д т.п др г гг руб тыс млн"""
)
# words that begin a sentence far more often than a name, after U.S. or J. R. R.
STARTERS = _words(
    """the this that these those it its so but and or then now wait however we i if in on at for from with as he she
    they there therefore thus let hence because no yes hmm okay ok alternatively since when where what why how which
    who is are was were does do can could should would to by a an also all both each another first second next finally
    given using after before maybe perhaps actually let's that's it's i'm i'll"""
)
# words before a single letter that is a choice or the name of a thing, not an initial: "the answer is B. Next ..."
BEFORE_LETTER = _words(
    """is are be to answer answers option options choice choices letter point points case set variable vertex node line
    or than equals part person player team box group type class column row matrix event"""
)
GERMAN_ARTICLES = _words("am der die das dem den des im vom zum beim bis")  # before an ordinal: am 3. Mai

FORMULA_OR_CODE = re.compile(
    r"^[ \t]*(?P<fence>```+|~~~+)[^\n]*\n.*?^[ \t]*(?P=fence)[ \t]*$"
    r"|`[^`\n]+`"
    r"|\$\$(?:(?!\n\s*\n|\$\$).){1,3000}\$\$"
    r"|\\\[(?:(?!\n\s*\n|\\\]).){1,3000}\\\]"
    r"|\\\((?:(?!\n\s*\n|\\\)).){1,3000}\\\)"
    r"|\\begin\{(?P<name>\w+\*?)\}(?:(?!\n\s*\n).)+?\\end\{(?P=name)\}"
    r"|\\(?:boxed|text)\{(?:[^{}\n]|\{(?:[^{}\n]|\{[^{}\n]*\})*\}){0,500}\}"
    r"|(?<![\\$\w])\$(?![\s$])(?:[^$\n\\]|\\.)*?(?<![\s\\])\$(?![\d$])",
    re.DOTALL | re.MULTILINE,
)
FORMULA_END = re.compile(r"[.?!。！？]\s*(?:\$\$?|\\[\])])$")
CANDIDATE = re.compile(
    rf"(?P<line>[\n\v\f\x85\u2028\u2029]\s*)"
    rf"|(?P<full>[{FULL_STOPS}．])(?P<tail>[{FULL_STOPS}．?!…”’»）」』】》〉)\]}}]*)\s*"
    rf"|(?<![.?!…])(?P<mark>[.?!…؟۔]+)(?P<closers>[{CLOSERS}]*)(?:\[\d+\])*"
    rf"(?P<space>\s+|(?=[{UNSPACED}])|(?<=[{UNSPACED}][?!])|$)"
)
ENUMERATOR = re.compile(
    r"[\s*_#>(\[\-•–]*(?:(?:step|case|part|problem|question|example|option|section|chapter|theorem|lemma|schritt|fall|"
    r"étape|paso|caso|шаг|случай)\s+)?(?:\d{1,3}(?:\.\d{1,3})*|[a-zA-Z]|[ivx]{1,5}|[IVX]{1,5})[*_)]*",
    re.IGNORECASE,
)
WORD_BEFORE = re.compile(r"(?:[^\W_]|[.'’\-](?=[^\W_]))+$")  # with inner full stops: e.g, U.S, 3.5


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """The half-open range of characters of each sentence; the ranges tile the text.

    White space belongs to the sentence before it, or to the first sentence at the text's beginning.
    """
    n_leading = len(text) - len(text.lstrip())
    ends = [end for end in _ends(text) if end > n_leading]
    if text and (not ends or ends[-1] < len(text)):
        ends.append(len(text))
    return list(zip([0, *ends], ends, strict=False))


def split_sentences(text: str) -> list[str]:
    """The sentences of a text; joined, they are the text."""
    return [text[start:end] for start, end in sentence_spans(text)]


def token_bounds(pieces: Sequence[str], spans: Sequence[tuple[int, int]]) -> list[int]:
    """len(spans) + 1 ascending token positions: sentence k consists of the tokens bounds[k] up to bounds[k + 1].

    pieces: each token's text; together they are the text that the spans tile. A token belongs to the sentence that
    contains its first character other than white space (" Wait" belongs to the following sentence, ".\\n" to the
    preceding one). A sentence in which no token starts is empty.
    """
    bounds, sentence = [0], 0
    for token, (start, _) in enumerate(piece_spans(pieces)):
        piece = pieces[token]
        first = start + (len(piece) - len(piece.lstrip()) if piece.strip() else 0)
        while sentence < len(spans) - 1 and first >= spans[sentence][1]:
            bounds.append(token)
            sentence += 1
    return [*bounds, *[len(pieces)] * (len(spans) + 1 - len(bounds))]


def sentence_bounds(pieces: Sequence[str], first: int = 0) -> list[int]:
    """Token positions that tile the pieces into non-empty sentences; the first token's position is `first`."""
    bounds = token_bounds(pieces, sentence_spans("".join(pieces)))
    return [first + bound for bound in dict.fromkeys([0, *bounds])]


def piece_spans(pieces: Sequence[str]) -> list[tuple[int, int]]:
    """The half-open range of characters of each token in the tokens' text.

    A token without text is the rest of a character that began in an earlier token, and has that character's range.
    """
    spans, end = [], 0
    for piece in pieces:
        start, end = end, end + len(piece)
        spans.append((start if piece else max(end - 1, 0), end))
    return spans


def _ends(text: str) -> Iterator[int]:
    """The end (exclusive) of each sentence in the text, in order."""
    kept = [match.span() for match in FORMULA_OR_CODE.finditer(text)]
    start, at, n_kept = 0, 0, 0  # where the sentence and the search start; number of formulas passed
    match = CANDIDATE.search(text)
    while True:
        if match is not None and match.start() < at:
            match = CANDIDATE.search(text, at)
        if n_kept < len(kept) and (match is None or kept[n_kept][0] <= match.start()):
            first, last = kept[n_kept]
            n_kept += 1
            at = max(at, last)
            gap = re.compile(r"\s+").match(text, last)
            if gap is None or not FORMULA_END.search(text, first, last) or not _begins_anew(text, gap.end()):
                continue
            at = gap.end()
        elif match is None:
            return
        else:
            at = match.end()
            if not _is_end(text, match, start):
                continue
        yield at
        start = at


def _is_end(text: str, match: re.Match[str], start: int) -> bool:
    """Whether the mark that was found ends the sentence that starts at `start`."""
    after = match.end()
    follows = text[after : after + 1]
    if match["line"] or not follows:
        return True
    if match["full"]:
        is_decimal = match["full"] == "．" and follows.isnumeric()
        is_aside = match["full"] in "！？" and match["tail"][-1:] in {")", "）", "]", "】"}
        return not is_decimal and not (is_aside and not text[after - 1].isspace())
    if "\n" in match["space"]:
        return True
    if follows in ",;:)]}=+<>/^%，、；：）" or (follows in "*|&-" and text[after + 1 : after + 2] == " "):
        return False  # the sentence goes on, or a formula does
    mark = match["mark"]
    if mark.endswith("..") or "…" in mark:
        return match["space"] != "" and _begins_anew(text, after)
    if match["closers"].strip("*_~`") and not _begins_anew(text, after):
        return False  # (why?) because; "Stop!" he said
    found = WORD_BEFORE.search(text, max(start, match.start() - 40), match.start())
    word = found.group() if found else ""
    if mark == "!":
        is_factorial = word.isdecimal() or len(word) == 1 or text[match.start() - 1 : match.start()] in set(")|]}")
        return not is_factorial or _begins_anew(text, after)
    if mark != ".":
        return True
    if text[match.start() - 1 : match.start()] == " " and not _begins_anew(text, after):
        return False  # a product, v . w
    if ENUMERATOR.fullmatch(text, start, match.start()):
        return False
    before = text[start : match.start() - len(word)].split()
    return not _goes_on(word, before[-1] if before else "", text, after)


def _goes_on(word: str, word_before: str, text: str, after: int) -> bool:
    """Whether the full stop belongs to `word`, so that the sentence continues at `after`."""
    rest = text[after : after + 40]
    lower = word.lower()
    if len(word) <= 2 and re.fullmatch(r"[^\W\d_]{1,2}\.", word_before):
        lower = word_before.lower() + lower  # z. B., т. д.
    next_word = re.search(r"\w[\w'’]*|$", rest).group()  # type: ignore[union-attr]
    is_new = _begins_anew(text, after)
    if lower in NEVER_LAST:
        return True
    if lower in NUMBERED and re.match(r"[(\[#$]?\d", rest):
        return lower != "no" or word_before != ""  # "No. 5 is odd." answers a question
    if lower in NUMBERED - ORDINARY and (not is_new or re.match(r"[A-Z]\b(?!['’])", rest)):
        return True
    if lower in EITHER:
        return not is_new
    is_name = is_new and next_word.lower() not in STARTERS
    if word.isdecimal():
        return is_name and word_before.lower() in GERMAN_ARTICLES
    parts = word.split(".")
    if len(parts) > 1 and all(part.isalpha() and len(part) <= 2 for part in parts):  # U.S., Ph.D.
        return not is_new or is_name
    if len(word) == 1 and word.isalpha():
        if re.match(r"[^\W\d_]\.", rest):  # J. R. R., z. B.
            return True
        is_letter = word_before.strip("*(\"'").lower() in BEFORE_LETTER or word_before[-1:] in set("=+-*/<>")
        return word.isupper() and word != "I" and is_name and not is_letter  # J. Smith
    return False


def _begins_anew(text: str, at: int) -> bool:
    """Whether a sentence can begin at `at`: with an upper-case letter, or a letter of a script without case."""
    match = ANY_OPENERS.match(text, at)
    first = text[match.end() : match.end() + 1] if match else ""
    return not first or (first.isalpha() and not first.islower())


def most_and_little_read(bounds: Sequence[tuple[int, int]], read: Sequence[float]) -> tuple[int, int]:
    """Among three sentences or more, the one read most, and the most similar one among the half that is read least.

    bounds: the half-open range of tokens of each sentence. read: how much each is read. The most similar sentence has
    the smallest sum of the log of the lengths' ratio and the distance of the middles as a share of the whole.
    """
    most = max(range(len(read)), key=lambda k: read[k])
    others = [k for k in range(len(read)) if k != most]
    half = median(read[k] for k in others)
    whole = bounds[-1][1] - bounds[0][0]

    def unlike(k: int) -> float:
        (first, last), (first_most, last_most) = bounds[k], bounds[most]
        lengths = abs(log((last - first) / (last_most - first_most)))
        return lengths + abs(first + last - first_most - last_most) / (2 * whole)

    return most, min((k for k in others if read[k] <= half), key=unlike)
