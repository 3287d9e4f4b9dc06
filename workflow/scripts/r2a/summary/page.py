"""summary.md as a page: no script, no network, light and dark, for a phone, a screen and paper."""

import base64
import hashlib
import html
from pathlib import Path

from markdown_it import MarkdownIt

STYLE = (Path(__file__).parent / "summary.css").read_text()


def page(markdown: str, title: str) -> str:
    """The HTML of a Markdown text with tables. Markup in the text is shown, not followed: labels may hold any."""
    # commonmark, tables added; html off, so that < and > of the text are escaped
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    # a wide table scrolls by itself; a picture is loaded when it is looked at
    body = body.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")
    body = body.replace("<img ", '<img loading="lazy" ')
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src 'self' file:; "
        f"style-src 'sha256-{digest}'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
