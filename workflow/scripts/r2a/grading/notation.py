r"""One notation for mathematics that may be written in many: Unicode, LaTeX and its fonts, plain notation.

`written` changes how a text is written, never what it says; all code that reads an answer starts from it.
"""

# ruff: noqa: RUF001 (this module distinguishes signs that look alike)
import re
import unicodedata
from functools import lru_cache

SIGNS = {
    "−": "-", "‐": "-", "‑": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ",
    "÷": "/", "⁄": "/", "∕": "/", "°": r"^\circ ", "º": r"^\circ ", "∞": r"\infty ", "√": r"\sqrt ", "∪": r"\cup ",
    "∩": r"\cap ", "∈": r"\in ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ",
    "≈": r"\approx ", "∅": r"\emptyset ", "∖": r"\setminus ", "±": r"\pm ", "∓": r"\mp ", "→": r"\to ",
    "∠": r"\angle ", "∑": r"\sum ", "∫": r"\int ", "∧": r"\wedge ", "∨": r"\vee ", "¬": r"\neg ", "…": r"\ldots ",
    "⋯": r"\ldots ", "′": "'", "’": "'", "‘": "'", "“": '"', "”": '"', "、": ",", "。": ".", "∶": ":", "⟨": r"\langle ",
    "⟩": r"\rangle ", "∘": r"^\circ ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "∣": "|",
    "〈": r"\langle ", "〉": r"\rangle ",
    "∆": r"\Delta ", "ℂ": r"\mathbb{C}", "\u200b": "", "\u2061": "", "\ufeff": "",
}  # fmt: skip
GREEK_NAMES = [
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi",
    "omicron", "pi", "rho", "sigma", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega",
]  # fmt: skip
GREEK = {chr(0x3B1 + index): f"\\{name} " for index, name in enumerate(GREEK_NAMES)} | {
    "Δ": r"\Delta ", "Γ": r"\Gamma ", "Θ": r"\Theta ", "Λ": r"\Lambda ", "Φ": r"\Phi ", "Ψ": r"\Psi ", "Ω": r"\Omega ",
}  # fmt: skip
SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ", "0123456789+-ni", strict=True))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₙᵢ", "0123456789+-ni", strict=True))
GROUP = r"\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"  # the content of braces, up to two levels deeper
FUNCTIONS = [
    "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp",
    "lim", "max", "min", "gcd", "lcm", "det",
]  # fmt: skip
TEXT_FONT = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|[mhf]box|emph)\s*" + GROUP)
MATH_FONT = re.compile(
    r"\\(?:math(?:rm|bf|it|sf|tt|normal)|operatorname\*?|boldsymbol|bm|pmb)\s*(?:" + GROUP + r"|([A-Za-z0-9]))"
)
OLD_FONT = re.compile(r"\\(?:rm|bf|it|sf|tt)(?![A-Za-z])\s*")
NOTHING = re.compile(
    r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z])\.?|\\(?:display|text|script)style(?![A-Za-z])|\\limits|\\nolimits"
    r"|\\!|\\(?:small|large|Large)(?![A-Za-z])"
)
SPACES = re.compile(
    r"(?<!\\)\\[,;: >]|~|\\q?quad(?![A-Za-z])|\\(?:thin|med|thick|hfill)space|\\hspace\*?\{[^{}]*\}|\\newline|\s"
)
ORDINAL = (  # 7th
    r"(?<=\d)(?:\^?\s*(?:st|nd|rd|th)(?![A-Za-z])|\^?\\text\{\s*(?:st|nd|rd|th)\s*\}"
    r"|\^\{\s*(?:\\text\{\s*(?:st|nd|rd|th)\s*\}|st|nd|rd|th)\s*\})"
)
COLOUR = re.compile(r"\\color\s*\{[^{}]*\}|\\textcolor\s*\{[^{}]*\}|\\colorbox\s*\{[^{}]*\}")
UNDERLINE = re.compile(r"\\(?:underline|uline|mathop|ensuremath|mbox)\s*" + GROUP)
SAME = [
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"\s*\{\s*,\s*\}\s*", ","),
        (r"\{\.\}", "."),
        (r"\\(?:[dtcs]|nice)frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:leqslant|leqq|leq|le)(?![A-Za-z])|<=|=<", r"\\le "),
        (r"\\(?:geqslant|geqq|geq|ge)(?![A-Za-z])|>=", r"\\ge "),
        (r"\\(?:neq|ne|not\s*=)(?![A-Za-z])|!=", r"\\ne "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\(?:varnothing|empty)(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset "),
        (r"\\infin(?:ity)?(?![A-Za-z])|(?<![A-Za-z\\])infinity(?![A-Za-z])", r"\\infty "),
        (r"\+\s*\\infty", r"\\infty"),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\lbrack(?![A-Za-z])", "["),
        (r"\\rbrack(?![A-Za-z])", "]"),
        (r"\\[lr]?vert(?![A-Za-z])|\\mid(?![A-Za-z])", "|"),
        (r"\\(?:[lcdx]?dots[cbmio]?)(?![A-Za-z])|\.\s?\.\s?\.", r"\\ldots "),
        (r"\\(?:textdegree|degree)(?![A-Za-z])|\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])", r"^\\circ "),
        (r"\\%|\\text\{\s*%\s*\}", "%"),
        (r"\\cdotp(?![A-Za-z])|\*(?!\*)(?<!\*\*)", r"\\cdot "),
        (r"\*\*", "^"),
        (r"\\colon(?![A-Za-z])", ":"),
        (r"\\prime(?![A-Za-z])", "'"),
        (r"\^\s*\{\s*((?:'\s*)+)\}|\^\s*('+)", r"\1\2"),
        (r"'\s+(?=')", "'"),
        (r"\\bigcup(?![A-Za-z_])", r"\\cup "),
        (r"\\(?:backslash|smallsetminus)(?![A-Za-z])", r"\\setminus "),
        (r"\\text\{\s*(?:and|&)\s*\}", " and "),
        (r"\\text\{\s*or\s*\}", " or "),
        (r"\\lor(?![A-Za-z])", r"\\vee "),
        (r"\\land(?![A-Za-z])", r"\\wedge "),
        (r"(?i)^\s*(?:\\text\{\s*)?all real(?:s| numbers)\s*\}?\s*$", r"\\mathbb{R}"),
        (ORDINAL, ""),
        (r"\\text\{\s*,\s*\}", ","),
        (r"\\text\{\s*\}|\\phantom\{[^{}]*\}", " "),
        (r"(^|[,;(]\s*|\\\{\s*|and |or )\\text\{\s*([A-Za-z])\s*\}", r"\1\2"),
        (r"(?i)^\s*\\text\{\s*(?:the )?(?:final )?answer(?: is)?\s*:?\s*\}", ""),
    )
]
ANNOUNCED = re.compile(r"(?i)^(?:the )?(?:final )?answer(?: is)?\s*:\s*|^the (?:final )?answer is\s+")


@lru_cache(maxsize=4096)
def written(text: str) -> str:
    r"""The text in one notation: LaTeX without decoration, \text{} as the only font, single spaces."""
    text = _unicode_in_latex(text)
    text = _without_delimiters(text)
    text = NOTHING.sub("", re.sub(r",\\!\s*", ",", text))
    text = re.sub(r"\\(?:boxed|fbox)\s*" + GROUP, r"\1", COLOUR.sub("", text))
    text = UNDERLINE.sub(r"\1", re.sub(r"^\s*(\*\*|`)(.*)\1\s*$", r"\2", text))
    for _ in range(3):  # fonts in fonts
        text = TEXT_FONT.sub(_text, text)
        text = MATH_FONT.sub(_upright, text)
    text = OLD_FONT.sub("", text)
    for pattern, plain in SAME:
        text = pattern.sub(plain, text)
    text = _plain_notation(SPACES.sub(" ", text))
    text = _braced(text)
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"(?<!\\)\\$|(?<!\\ldots)[.,;。]+$", "", text).strip()
    text = re.sub(r"^\s*(?:=|\\approx)\s*", "", text)
    text = ANNOUNCED.sub("", text)
    while text.startswith("{") and _closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def squeezed(text: str) -> str:
    """The text without white space, except between two digits (1 2 is not 12) and between two letters."""
    return re.sub(r"(?<![\dA-Za-z])\s+|\s+(?![\dA-Za-z])", "", text.strip())


def words_of(text: str) -> str:
    r"""A written text in plain words, without \text{}."""
    text = re.sub(r"\\text" + GROUP, r" \1 ", text)
    return re.sub(r"\s+", " ", text).strip()


def _unicode_in_latex(text: str) -> str:
    if text.isascii():
        return text
    text = re.sub(
        f"[{''.join(SUPERSCRIPTS)}]+", lambda match: f"^{{{''.join(SUPERSCRIPTS[c] for c in match[0])}}}", text
    )
    text = re.sub(f"[{''.join(SUBSCRIPTS)}]+", lambda match: f"_{{{''.join(SUBSCRIPTS[c] for c in match[0])}}}", text)
    for sign, root in (("√", r"\\sqrt"), ("∛", r"\\sqrt[3]")):
        text = re.sub(rf"{sign}\s*\(([^()]*)\)", rf"{root}{{\1}}", text)
        text = re.sub(rf"{sign}\s*(\d+|[A-Za-z])", rf"{root}{{\1}}", text)
    return "".join(_in_latex(character) for character in text)


def _in_latex(character: str) -> str:
    if character.isascii():
        return character
    if character in SIGNS:
        return SIGNS[character]
    kind, _, plain = unicodedata.decomposition(character).partition(" ")
    if kind == "<fraction>":
        parts = "".join(chr(int(code, 16)) for code in plain.split()).split("⁄")
        return rf"\frac{{{parts[0]}}}{{{parts[1] or 1}}}" if len(parts) == 2 and parts[1] else character
    normal = unicodedata.normalize("NFKC", character)
    return "".join(GREEK.get(part, SIGNS.get(part, part)) for part in normal)


def _without_delimiters(text: str) -> str:
    """The text without dollar signs that open or close mathematics; a single one means money and is kept."""
    text = re.sub(r"(?<!\\)\\[()\[\]]", " ", text)
    if len(re.findall(r"(?<!\\)\$", text)) % 2:
        return re.sub(r"(?<!\\)\$", r"\\$", text)
    return re.sub(r"(?<!\\)\$+", " ", text)


def _text(match: re.Match[str]) -> str:
    r"""\text{} without formulas of its own; a number in it is just that number."""
    content = re.sub(r"\\?\$", "", match[1]) if match[1].count("$") > 1 else match[1]
    if re.fullmatch(r"[^A-Za-z]*\d[^A-Za-z]*", content) and content.isascii():
        return content
    if number := re.fullmatch(r"\s*(-?[\d.,]*\d)\s+([A-Za-z].*)", content):  # \text{5 cm}
        return f"{number[1]} \\text{{{number[2]}}}"
    return f"\\text{{{content}}}"


def _upright(match: re.Match[str]) -> str:
    r"""An upright letter becomes that letter, an upright function name that function; anything else is words."""
    content = SPACES.sub(" ", match[1] if match[1] is not None else match[2]).strip()
    follows_number = re.search(r"[\d}/]\s*$", match.string[: match.start()])
    if follows_number and re.fullmatch("[mgsLhNJWVAK]|min|sec", content):
        return f"\\text{{{content}}}"  # a unit
    if re.fullmatch(r"[A-Za-z0-9]|\\[A-Za-z]+|\d+", content):
        return f"{content} " if content.startswith("\\") else content
    if content in FUNCTIONS:
        return f"\\{content} "
    if re.fullmatch(r"[A-Za-z .,'-]+", content):
        return f"\\text{{{content}}}"
    if "\\" not in content:  # m s^{-2}
        content = re.sub(r"[A-Za-z]+", lambda word: f"\\text{{{word[0]}}}", content)
        return content
    return f"{{{content}}}"


def _plain_notation(text: str) -> str:
    """sqrt(x), 2pi and x^(1/2) in LaTeX."""
    text = re.sub(r"(?<![A-Za-z\\])(?:sqrt|Sqrt)\s*(?=[({])", r"\\sqrt", text)
    if not re.search(r"(?<![A-Za-z\\])[A-Za-z]{3,} [A-Za-z]{3,}", text):  # no names of letters in a sentence
        names = "pi|theta|alpha|beta|gamma|lambda|phi|omega|sigma"
        text = re.sub(rf"(?<![A-Za-z\\{{])({names})(?![A-Za-z}}])", r"\\\1 ", text)
        text = re.sub(rf"(?<![A-Za-z\\{{])({'|'.join(FUNCTIONS)})(?=\s*[({{])", r"\\\1", text)
    text = re.sub(r"(?<![A-Za-z\\])abs\(([^()]*)\)", r"|\1|", text)
    for opening in (r"\sqrt(", "^("):
        while (start := text.find(opening)) >= 0:
            first = start + len(opening) - 1
            last = _closing(text, first, "()")
            if last < 0:
                break
            text = f"{text[:first]}{{{text[first + 1 : last]}}}{text[last + 1 :]}"
    return text


def _braced(text: str) -> str:
    r"""\frac12, \frac1{2} and \sqrt3 with all their braces; x^10 and x^{10} the same."""
    text = re.sub(r"\\frac\s*(\d)\s*(\d)(?!\d*\s*[}/])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*([A-Za-z0-9])\s*(?=\{)", r"\\frac{\1}", text)
    text = re.sub(r"\\frac\s*([A-Za-z0-9])\s*([A-Za-z0-9])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*" + GROUP + r"\s*([A-Za-z0-9]|\\[A-Za-z]+)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s+\{", r"\\frac{", text)
    text = re.sub(r"\\sqrt\s*([A-Za-z0-9])", r"\\sqrt{\1}", text)
    text = re.sub(r"\\sqrt\s+(?=[{\[])", r"\\sqrt", text)
    text = re.sub(r"([\^_])\s*([A-Za-z0-9])(?![}\d])", r"\1{\2}", text)
    text = re.sub(r"\^\s*(-?\d+(?:\.\d+)?)", r"^{\1}", text)
    return re.sub(r"([\^_])\s+\{", r"\1{", text)


def _closing(text: str, start: int, pair: str = "{}") -> int:
    """Where the bracket that opens at `start` closes, or -1; an escaped brace is text."""
    depth = 0
    for match in re.finditer(r"\\.|[" + re.escape(pair) + "]", text[start:]):
        if match[0] == pair[0]:
            depth += 1
        elif match[0] == pair[1]:
            depth -= 1
            if depth == 0:
                return start + match.start()
    return -1
