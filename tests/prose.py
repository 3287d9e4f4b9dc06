"""The sentences of a page, as a reader sees them."""

import html
import re

NUMBER = re.compile(r"(?<![\w.])[+\u2212-]?\d[\d.,]*(?!\w)")
PROSE = re.compile(r"<(p|li|figcaption)\b(?: class=\"([^\"]*)\")?[^>]*>(.*?)</\1>", re.DOTALL)


def sentences(page: str, kind: str = "") -> list[str]:
    """The sentences of its paragraphs, lists and captions, without legends; only of one CSS class, if given."""
    text = page.partition('<section id="origin">')[0]  # versions of packages are not sentences
    found = []
    for tag, classes, content in PROSE.findall(text):
        if classes.startswith("key") or (kind and kind not in classes.split()):
            continue
        content = re.sub(r"<a\b[^>]*>[^<]*</a>", "", content, count=tag == "li")  # the section's name before a sentence
        plain = html.unescape(" ".join(re.sub(r"<[^>]+>", "", content).split()))
        found += [one for one in re.split(r"(?<=[.!?]) (?=[A-Z\d])", plain) if one]
    return found
