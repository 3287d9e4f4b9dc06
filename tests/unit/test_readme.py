"""What the README says agrees with the repository."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EDGE = r"(\w+) --> (\w+)"
FIRST = ("load_dataset", "resolve_model", "resolve_judge", "check_model")
NOT_SHOWN = ("all", "draw_", "tabulate_", "write_", *FIRST)
README = (ROOT / "README.md").read_text()


def rule_edges(graph):
    """(from, to) by rule name in a mermaid graph."""
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", graph))
    return {(names.get(source, source), names.get(target, target)) for source, target in re.findall(EDGE, graph)}


def is_implied(edge, edges):
    """Whether other edges lead from the edge's source to its target; edges: of a graph without cycles."""
    source, target = edge

    def leads(rule):
        return rule == target or any(leads(after) for before, after in edges if before == rule)

    return any(leads(after) for before, after in edges if before == source and after != target)


def test_the_graph_is_the_workflows_without_arrows_that_others_imply():
    command = [sys.executable, "-m", "snakemake", "--rulegraph", "mermaid-js", "--forceall"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    edges = {edge for edge in rule_edges(done.stdout) if not any(rule.startswith(NOT_SHOWN) for rule in edge)}
    shown = re.search(r"```mermaid\n(.*?)```", README, re.DOTALL).group(1)
    assert rule_edges(shown) == {edge for edge in edges if not is_implied(edge, edges)}
    assert len(rule_edges(shown)) > 20


def test_every_picture_and_file_it_names_exists():
    named = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    named += re.findall(r"`((?:config|envs|resources|workflow)/[\w./-]+)`", README)
    assert len(named) > 5
    for path in named:
        assert (ROOT / path).exists(), path
