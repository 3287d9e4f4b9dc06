"""What the README says is what the repository has."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def rule_edges(graph):
    """(from, to) by rule name of a mermaid graph."""
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", graph))
    return {(names[source], names[target]) for source, target in re.findall(r"(id\d+) --> (id\d+)", graph)}


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
