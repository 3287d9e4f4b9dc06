"""summary.md as a page: no script, no network, light and dark, for a phone, a screen and paper."""

import base64
import hashlib
import html
from pathlib import Path

from markdown_it import MarkdownIt

STYLE = (Path(__file__).parent / "summary.css").read_text()


def page(markdown: str, title: str, folder: Path) -> str:
    """The HTML of a Markdown text with tables, whole in itself: pictures, PNG files under `folder`, are put into it.

    Markup in the text is shown, not followed: labels may hold any.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(markdown)
    for picture in (child for token in tokens for child in token.children or () if child.type == "image"):
        content = (folder / str(picture.attrs["src"])).read_bytes()
        picture.attrs["src"] = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    body = reader.renderer.render(tokens, reader.options, {})
    # a wide table scrolls by itself
    body = body.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
