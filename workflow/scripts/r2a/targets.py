"""What can be asked for, and whether it is done; run by `make targets`."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

SCRIPTS = Path(__file__).parents[1]


def listing(summary: str, arguments: Sequence[str]) -> str:
    """Every file, grouped by the rule that makes it and what that does, from the output of `snakemake --summary`.

    done: it would not be made again. out of date: it exists and would be. not yet: it does not exist. arguments: what
    Snakemake was given with --summary, and needs to be given to make a file.
    """
    files: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    for line in summary.splitlines()[1:]:
        path, _date, rule, _log, status, plan = line.split("\t")
        if status == "removed temp file":
            continue
        state = "not yet" if status == "missing" else "done" if plan == "no update" else "out of date"
        files.setdefault(rule, []).append(f"  {state:<11}  {path}")
        counts[state] += 1
    rules = [f"{rule}: {_purpose(rule)}\n" + "\n".join(lines) + "\n" for rule, lines in files.items()]
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    return "\n".join(
        [*rules, f"{states}. To make a file and what it needs: {' '.join(['snakemake FILE', *arguments])}"]
    )


def _purpose(rule: str) -> str:
    """The one-line docstring of the rule's script, which has the rule's name."""
    if rule.startswith("draw_"):
        rule = "draw_figures"  # one script draws all
    script = SCRIPTS / f"{rule.removesuffix('_shard')}.py"  # a shard's rule has the whole's script
    return (ast.get_docstring(ast.parse(script.read_text())) or "").splitlines()[0]


def main(arguments: list[str]) -> None:
    """arguments: for Snakemake, e.g. --configfile my/study.yaml."""
    command = [sys.executable, "-m", "snakemake", "--summary", "--nolock", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    print(listing(done.stdout, arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
