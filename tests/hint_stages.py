"""All stages of the hint study, from a dataset's problems to the table."""

from pathlib import Path

import pandas as pd

from r2a.evaluation.hints import write_hints
from r2a.generation import generate_traces
from r2a.generation.hinted import answer_hinted
from r2a.grading import grade_traces
from r2a.grading.hints import grade_hints
from r2a.hints import write_hinted_problems
from r2a.models import resolve_model
from r2a.store import provenance, write_parquet
from r2a.study import Study, stage_settings

STAGES = ("models", "traces", "grades", "hints", "hinted_answers", "hint_grades", "hint_tables")


def write_table_of_hints(folder: Path, study: Study, model: str, problems: pd.DataFrame) -> Path:
    """Run the stages on a study's model and some of its puzzles, in a folder; return the path of the table."""
    job = {"model": model, "dataset": "puzzles", "condition": "with_reasoning", "decoding": "greedy"}
    settings = {stage: stage_settings(study, stage, **job) for stage in STAGES}
    paths = {name: folder / name / "m" / "d.parquet" for name in ("traces", "grades", "hints", "answers", "verdicts")}
    dataset, manifest, csv = folder / "d.parquet", folder / "m.json", folder / "hints.csv"
    write_parquet(dataset, problems, provenance({}))
    resolve_model(manifest, settings["models"])
    generate_traces(dataset, manifest, paths["traces"], settings["traces"], {})
    grade_traces(paths["traces"], dataset, paths["grades"], settings["grades"])
    write_hinted_problems(dataset, paths["hints"], settings["hints"])
    answer_hinted(paths["hints"], manifest, paths["answers"], settings["hinted_answers"], {})
    inputs = (paths[name] for name in ("answers", "hints", "traces", "grades", "verdicts"))
    grade_hints(*inputs, settings["hint_grades"])
    write_hints(paths["verdicts"], [], csv, settings["hint_tables"])
    return csv
