"""What YAML reads otherwise than it looks in a configuration file: keys given twice, and numbers such as 010 and 1:30.

Read at every parse of the Snakefile, on every cluster job: no heavy import here.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
MERGE = "tag:yaml.org,2002:merge"  # of <<, which may be given several times
OTHER_BASE = re.compile(r"[-+]?0[0-9_]+|[-+]?0[box].*|.*:.*")  # read as octal, binary, hexadecimal, or in sixties


def misread_in_words(path: Path | str) -> Iterator[str]:
    """What is read otherwise than it looks in a file, each with its line; nothing for JSON that YAML cannot read.

    Of a key that is given twice in a mapping, YAML keeps the last value without a word.
    """
    with contextlib.suppress(yaml.YAMLError):  # JSON may have tabs
        root = yaml.compose(Path(path).read_text("utf-8-sig"), Loader=yaml.SafeLoader)
        yield from _in_words(root, "", set())


def _in_words(node: yaml.Node | None, place: str, seen: set[int]) -> Iterator[str]:
    if node is None or id(node) in seen:  # an alias of what has been looked at
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode) and node.tag in NUMBERS and OTHER_BASE.fullmatch(node.value):
        read = yaml.safe_load(node.value)
        yield f"{place}: YAML reads {node.value} as {read} (line {_line(node)}); write {read}, or quote a text"
    if isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _in_words(value, f"{place}.{number}", seen)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name = str(key.value)
            inside = f"{place}.{name}".lstrip(".")
            if name in lines and key.tag != MERGE:
                yield f"{inside}: is given twice, in lines {lines[name]} and {_line(key)}; only the last would count"
            lines[name] = _line(key)
            yield from _in_words(value, inside, seen)


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1
