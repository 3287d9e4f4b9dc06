"""What the README says agrees with the repository."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EDGE = r"(\w+) --> (\w+)"
MADE_FOR_READERS = ("all", "draw_", "tabulate_", "write_")
README = (ROOT / "README.md").read_text()


def rule_edges(graph):
    """(from, to) by rule name in a mermaid graph, without the rules that make what people read."""
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", graph))
    edges = {(names.get(source, source), names.get(target, target)) for source, target in re.findall(EDGE, graph)}
    return {edge for edge in edges if not any(rule.startswith(MADE_FOR_READERS) for rule in edge)}


def test_the_graph_is_the_workflows():
    command = [sys.executable, "-m", "snakemake", "--rulegraph", "mermaid-js", "--forceall"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    shown = re.search(r"```mermaid\n(.*?)```", README, re.DOTALL).group(1)
    assert rule_edges(shown) == rule_edges(done.stdout)
    assert len(rule_edges(shown)) > 20


def test_every_picture_and_file_it_names_exists():
    named = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    named += re.findall(r"`((?:config|envs|resources|workflow)/[\w./-]+)`", README)
    assert len(named) > 5
    for path in named:
        assert (ROOT / path).exists(), path
