"""A changed key reruns what the table of stages says, and nothing else; checked for every key of the schema."""

import contextlib
import copy
import datetime
import io
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from snakemake.api import DAGApi, SnakemakeApi
from snakemake.io import is_flagged
from snakemake.settings.enums import Quietness, RerunTrigger
from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings, SchedulingSettings

from planned_jobs import settings_of
from r2a.reruns import Job, jobs_of, listing, made_again, plain_jobs
from r2a.study import Study, load_study
from r2a.study.settings import Repetition
from r2a.study.stages import ASKED, COST, STAGES, stage_settings, stages_of

ROOT = Path(__file__).parents[2]
# what only changes how results are shown, or with what interval
PRESENTATION = ("label", "is_toy", "confidence", "n_resamples", "distillation")
# another value that is known, for keys that name something
KNOWN = {
    "models.*.leave_out": ["patching"],
    "models.*.path": "resources/models/tiny-silent",
    "datasets.*.path": "resources/datasets/word_problems.jsonl",
    "judges.*.path": "resources/models/tiny-qwen",
    "judges.*.kind": "batch",
    "perturbation.decoding": "greedy",
    "hints.kinds": ["user"],
    "hints.dataset_kinds": ["problems"],
    "hints.decoding": "greedy",
    "hints.n_problems": 3,
    "resampling.kinds": ["problems"],
    "attention.row_dtype": "float32",
    "diagnostics.haystack": "README.md",
    **dict.fromkeys(("attention.decoding", "ablation.decoding", "patching.decoding", "explorer.decoding"), "sampled"),
}


def every_key(section: type[BaseModel], place: str = "") -> typing.Iterator[str]:
    """The keys of a pydantic model and of the models in it, found without the project's own code."""
    for name, field in section.model_fields.items():
        inside = list(models_in(field.annotation))
        names = ".*" if typing.get_origin(field.annotation) is dict else ""
        if typing.get_origin(field.annotation) is list or not inside:
            yield f"{place}{name}"
        for model in inside if typing.get_origin(field.annotation) is not list else ():
            yield from every_key(model, f"{place}{name}{names}.")


def models_in(kind: Any) -> typing.Iterator[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for part in typing.get_args(kind):
        yield from models_in(part)


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped study with every section in use: endpoints, judges of each kind, drawn problems, sampling."""
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    server = {"base_url": "http://host/v1", "model": "m"}
    config["models"]["tiny-llama"]["endpoint"] = server
    config["models"]["tiny-qwen"]["reasoning_format"] = {"open": "<think>", "close": "</think>"}
    config["models"]["variant"] = {"variant_of": "tiny-qwen", "prompt": "chat"}
    config["judges"]["server"] = {"endpoint": server, "temperature": 1, "n_problems": 3}
    config["judges"]["files"] = {"batch": {"model": "m", "replies": "replies"}, "temperature": 1}
    config["judges"]["tiny-judge"] |= {"temperature": 1}
    config["perturbation"] |= {"decoding": "sampled", "paraphraser": server}
    config["perturbation"]["kinds"] = ["cut", "without_most_read"]
    config["hints"] = {"kinds": ["professor", "user"], "points_at": ["wrong", "right"], "decoding": "sampled"}
    config["resampling"] = {"n_rollouts": 4}
    for dataset in config["datasets"].values():
        dataset["n_problems"] = 5
    config["attention"]["case_uids"] = {"puzzles": ["a"], "comparisons": ["b"]}
    path = tmp_path_factory.mktemp("reruns") / "study.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def study(configuration: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        found = load_study(yaml.safe_load(configuration.read_text()))
    # which a study with an endpoint would be refused
    found.generation.repetition = Repetition(min_pattern_size=2, max_pattern_size=9, min_count=3)
    return found


@pytest.fixture(scope="module")
def jobs(configuration: Path) -> list[Job]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        found = jobs_of(configuration)
    judges = {job.wildcards["judge"] for job in found if "judge" in job.wildcards}
    hinted = next(job for job in found if job.stage == "hint_judgements")  # of the study's first judge; any may be that
    return [*found, *(hinted._replace(wildcards={**hinted.wildcards, "judge": judge}) for judge in judges)]


def another(value: Any) -> Any:
    """A different value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, datetime.date):
        return value + datetime.timedelta(days=1)
    if isinstance(value, list):
        return [*value[1:], value[0]] if len(value) > 1 else [*value, *value] or ["another"]
    if isinstance(value, dict):
        return {name: another(entry) for name, entry in value.items()} or {"another": 1}
    return f"{value or ''}another"


def changed(study: Any, key: str) -> Any:
    """A copy of the study in which the key has another value in every entry that has it; in a variant, another one."""
    result = copy.deepcopy(study)
    if key == "models.*.variant_of":
        result.models["variant"].variant_of = "tiny-llama"
        return result
    *path, last = key.split(".")
    places = [(result, False)]
    for part in path:
        if part == "*":
            entries = [entry for place, _ in places for entry in place.values()]
            places = [(entry, getattr(entry, "variant_of", None) is not None) for entry in entries]
        else:
            places = [(getattr(place, part), is_one) for place, is_one in places if getattr(place, part) is not None]
    for place, is_variant in places:
        value = KNOWN.get(key) or another(getattr(place, last))
        setattr(
            place, last, another(value) if is_variant and key not in KNOWN and not isinstance(value, bool) else value
        )
    return result


KEYS = [key for key in every_key(Study) if key != "study"]  # by another name, all results are others


@pytest.mark.parametrize("key", KEYS)
def test_a_changed_key_changes_the_stages_that_declare_it_and_no_other(key, study, jobs):
    after = changed(study, key)
    stages = {job.stage for job in jobs if job.stage and settings_of(study, job) != settings_of(after, job)}
    assert stages == {*stages_of(key)} & {job.stage for job in jobs}
    assert bool(stages) != any(covers(cost, key) for cost in (*COST, *ASKED)), "declared by no stage, and as no cost"


def covers(cost: str, key: str) -> bool:
    """Whether a place in COST, with {a,b} in it, is the key's."""
    parts = [part.strip("{}").split(",") for part in cost.split(".")]
    return len(parts) == key.count(".") + 1 and all(
        name in choices or choices == ["*"] for name, choices in zip(key.split("."), parts, strict=True)
    )


@pytest.mark.parametrize("key", [key for key in KEYS if key.split(".")[-1] in PRESENTATION or "explorer" in key])
def test_presentation_reaches_no_rule_that_runs_a_model(key, jobs):
    again = made_again(jobs, {job.number for job in jobs if job.stage in stages_of(key)})
    assert again and not [job.rule for job in again if job.runs_a_model]


class Complete:
    """A folder in which a study is complete, as far as `snakemake -n` can tell: empty files, with recorded settings."""

    def __init__(self, folder: Path, configuration: Path, study: Study) -> None:
        self.folder, self.configuration, self.study = folder, configuration, study
        for name in ("resources", "README.md"):
            (folder / name).symlink_to(ROOT / name)
        self._snakemake(study, self._write_outputs, forceall=True)
        many = SchedulingSettings(max_jobs_per_second=1000)
        self._snakemake(
            study, lambda planned: planned.execute_workflow("touch", scheduling_settings=many), forceall=True
        )
        self.inputs = inputs_of(self.dry_run(study)[0])

    def dry_run(self, study: Study) -> tuple[list[Job], set[int]]:
        """Every job of the study in this folder, and the numbers of those that `snakemake -n` plans."""

        def looked_at(planned: DAGApi) -> tuple[list[Job], set[int]]:
            workflow = planned.workflow_api._workflow  # the interface prints what it plans, and returns nothing
            workflow._prepare_dag(forceall=False, ignore_incomplete=True, lock_warn_only=True, nolock=True)
            workflow._build_dag()
            return plain_jobs(workflow.dag), {job.jobid for job in workflow.dag.needrun_jobs()}

        return self._snakemake(study, looked_at)

    def _snakemake(self, study: Study, use: Callable[[DAGApi], Any], forceall: bool = False) -> Any:
        triggers = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text())["rerun-triggers"]
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stderr(io.StringIO()),
            SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api,
        ):
            patch.chdir(self.folder)
            patch.setattr("r2a.study.load_study", lambda *_: study)  # for the Snakefile
            planned = api.workflow(
                ResourceSettings(cores=100),
                ConfigSettings(configfiles=[self.configuration], replace_workflow_config=True),
                snakefile=ROOT / "Snakefile",
            )
            on = frozenset(RerunTrigger[trigger.upper()] for trigger in triggers)
            return use(planned.dag(DAGSettings(forceall=forceall, rerun_triggers=on)))

    def _write_outputs(self, planned: DAGApi) -> None:
        workflow = planned.workflow_api._workflow
        workflow._prepare_dag(forceall=True, ignore_incomplete=True, lock_warn_only=True, nolock=True)
        workflow._build_dag()
        for output in (output for job in workflow.dag.jobs for output in job.output):
            Path(output).parent.mkdir(parents=True, exist_ok=True)
            Path(output).mkdir() if is_flagged(output, "directory") else Path(output).touch()


@pytest.fixture(scope="module")
def complete(configuration, study, tmp_path_factory) -> Complete:
    return Complete(tmp_path_factory.mktemp("complete"), configuration, study)


Name = tuple[str, ...]


def named(job: Job) -> Name:
    return (job.rule, *(f"{name}={value}" for name, value in sorted(job.wildcards.items())))


def inputs_of(jobs: list[Job]) -> dict[Name, set[Name]]:
    """The jobs that each job reads."""
    names = {job.number: named(job) for job in jobs}
    return {named(job): {names[number] for number in job.needs} for job in jobs}


@pytest.mark.slow
@pytest.mark.parametrize("key", ["study", *KEYS])
def test_snakemake_plans_what_the_table_declares_and_no_model_for_presentation(key, study, complete):
    after = study if key == "study" else changed(study, key)  # the study itself: nothing is to be done
    jobs, planned = complete.dry_run(after)
    inputs = inputs_of(jobs)
    differing = {
        job.number
        for job in jobs
        if named(job) not in complete.inputs
        or (job.stage and settings_of(study, job) != settings_of(after, job))
        or (key in ASKED and inputs[named(job)] != complete.inputs[named(job)])
    }
    found = [job for job in jobs if job.number in planned]
    assert {*map(named, found)} == {*map(named, made_again(jobs, differing))}
    if key.split(".")[-1] in PRESENTATION or "explorer" in key:
        assert not [job.rule for job in found if job.runs_a_model]


def test_every_rule_of_a_study_takes_its_settings_from_the_table(jobs):
    assert {job.rule for job in jobs if job.stage not in STAGES} == set()
    assert {job.stage for job in jobs} == {*STAGES}


@pytest.mark.parametrize("name", ["attention", "diagnostics", "ablation", "activations", "patching", "sentences"])
def test_a_stage_that_an_upgrade_changes_is_tried_on_every_model_again(name, study, monkeypatch):
    before = stage_settings(study, "model_check", model="tiny-qwen")
    monkeypatch.setitem(STAGES, name, STAGES[name]._replace(version=99))
    assert stage_settings(study, "model_check", model="tiny-qwen") != before


def test_a_seed_reruns_no_greedy_trace_and_no_download(study, jobs):
    after = changed(study, "seed")
    redrawn = [job for job in jobs if settings_of(study, job) != settings_of(after, job)]
    assert "models" not in {job.stage for job in redrawn}
    assert {job.wildcards["decoding"] for job in redrawn if job.stage == "traces"} == {"sampled"}


def test_an_added_decoding_leaves_the_stages_alone_that_read_another(configuration, study, jobs, tmp_path, monkeypatch):
    config = yaml.safe_load(configuration.read_text())
    config["decodings"]["warm"] = {"temperature": 1}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(ROOT)
    after = jobs_of(tmp_path / "more.yaml")
    before = {(job.rule, tuple(job.wildcards.items())) for job in jobs}
    new = {job.number for job in after if (job.rule, tuple(job.wildcards.items())) not in before}
    again = made_again(after, new)
    assert {job.rule for job in again if job.runs_a_model} == {"generate_traces", "judge_answers"}
    assert {job.wildcards["decoding"] for job in again if job.rule == "generate_traces"} == {"warm"}


def test_the_listing_says_which_rules_run_a_model(jobs):
    said = listing("patching.components", jobs)
    assert "is read by activations, patching, patching_tables" in said
    assert "patch_pairs" in said and "runs a model" in said and "generate_traces" not in said
    assert listing("models.*.threads", jobs) == "models.*.threads changes no result: nothing would be made again."
    assert "which results or jobs there are, but no result" in listing("models.*.leave_out", jobs)
