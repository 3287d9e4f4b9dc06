"""What a configuration may contain; all of its errors are reported at once."""

import copy
import json
import typing
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from r2a.extensions import PERTURBATION_KINDS
from r2a.study import ConfigError, json_schema, load_study, stage_settings
from r2a.study.reference import reference
from r2a.study.schema import Study

ROOT = Path(__file__).parents[2]
COMPARED = ("tiny-qwen", "comparisons")


@pytest.fixture
def shipped(monkeypatch):
    monkeypatch.chdir(ROOT)
    return yaml.safe_load((ROOT / "config/config.yaml").read_text())


@pytest.mark.parametrize(
    "name",
    [
        "config.yaml",
        "paper.yaml",
        "laptop.yaml",
        "examples/benchmarks.yaml",
        "examples/hints.yaml",
        "examples/variants.yaml",
    ],
)
def test_shipped_configurations_are_valid(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    load_study(yaml.safe_load((ROOT / "config" / name).read_text()))


def test_every_error_is_told_at_once_with_its_key_and_remedy(shipped):
    broken = copy.deepcopy(shipped)
    broken["seed"] = "soon"
    broken["modles"] = {}
    broken["models"]["tiny-qwen"]["path"] = "no/such/folder"
    broken["models"]["tiny-llama"]["hub"] = "someone/something"
    broken["decodings"]["greedy"]["n_samples"] = 3
    broken["attention"] = {"decoding": "nucleus", "top_heads": 3}
    with pytest.raises(ConfigError) as error:
        load_study(broken, "my.yaml")
    lines = str(error.value).splitlines()
    assert lines[0] == "my.yaml has 7 errors:"
    for expected in (
        "seed: ",
        "modles: unknown key; did you mean models?",
        "models.tiny-qwen.path: no/such/folder does not exist",
        "models.tiny-llama: give exactly one of path",
        "decodings.greedy.n_samples: ",
        "attention.decoding: 'nucleus' is not one of the decodings",
        "attention.top_heads: unknown key; did you mean n_top_heads?",
    ):
        assert sum(line.strip().startswith(expected) for line in lines) == 1, expected


def test_cases_are_named_by_problem_within_a_dataset_of_the_study(shipped):
    shipped["attention"]["case_uids"] = {"puzles": ["chain-0001"]}
    with pytest.raises(
        ConfigError, match=r"attention.case_uids: 'puzles' is not one of the datasets \(puzzles, compari"
    ):
        load_study(shipped)
    shipped["attention"]["case_uids"] = {"puzzles": ["chain-0001"]}
    study = load_study(shipped)
    assert stage_settings(study, "attention_rows", "tiny-qwen", "puzzles")["uids"] == ["chain-0001"]
    assert stage_settings(study, "attention_rows", "tiny-qwen", "comparisons")["uids"] is None


def test_settings_of_cases_do_not_rerun_all_traces(shipped):
    before = stage_settings(load_study(shipped), "attention", "tiny-qwen", "puzzles")
    shipped["attention"] |= {"n_cases": 9, "row_dtype": "float32", "case_megabytes": 1}
    assert stage_settings(load_study(shipped), "attention", "tiny-qwen", "puzzles") == before


def test_pairs_refuse_a_sampled_decoding(shipped):
    shipped["patching"] = {"decoding": "sampled"}
    with pytest.raises(ConfigError, match="pairs need greedy decoding"):
        load_study(shipped)


def test_a_perturbation_named_twice_is_refused_and_none_is_none(shipped):
    shipped["perturbation"] = {"kinds": ["cut", "filler", "cut"], "cuts": [0, 100, 100, 0]}
    with pytest.raises(ConfigError) as error:
        load_study(shipped)
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
        "perturbation.kinds: 'cut' is named twice",
        "perturbation.cuts: 0 and 100 are named twice",
    ]
    shipped["perturbation"] = {"kinds": []}
    assert load_study(shipped).perturbed_datasets == []


@pytest.mark.parametrize("other", ["cut", "filer"])  # one with levels, and one misspelt
def test_a_perturbation_is_compared_with_known_kinds_without_levels(shipped, monkeypatch, other):
    monkeypatch.setattr(PERTURBATION_KINDS["last_result"], "compared_with", (other,))
    with pytest.raises(ConfigError, match=f"perturbation.kinds: last_result is compared with {other}, which is not"):
        load_study(shipped)


def test_components_must_hold_resid_pre_and_be_known(shipped):
    shipped["patching"] = {"components": ["attn_out", "mlp"]}
    with pytest.raises(ConfigError) as error:
        load_study(shipped)

    assert "patching.components.1: " in str(error.value)
    shipped["patching"] = {"components": ["attn_out", "mlp_out"]}
    with pytest.raises(ConfigError, match=r"patching\.components: resid_pre is missing"):
        load_study(shipped)


def test_a_probe_named_twice_is_an_error(shipped):
    shipped["patching"] = {"probes": ["boxed", "boxed"]}
    with pytest.raises(ConfigError, match=r"patching\.probes: 'boxed' is named twice"):
        load_study(shipped)


def test_components_rerun_what_is_made_of_them_and_not_the_pairs(shipped):
    before = load_study(shipped)
    shipped["patching"]["components"] = ["resid_pre"]
    after = load_study(shipped)
    changed = {
        stage: stage_settings(before, stage, *COMPARED) != stage_settings(after, stage, *COMPARED)
        for stage in ("pairs", "activations", "patching")
    }
    assert changed == {"pairs": False, "activations": True, "patching": True}


def test_another_alignment_makes_the_pairs_again(shipped):
    before = load_study(shipped)
    shipped["patching"]["alignment"] = "pad_visible"
    after = load_study(shipped)
    pairs = stage_settings(before, "pairs", *COMPARED)
    assert stage_settings(after, "pairs", *COMPARED) == pairs | {"alignment": "pad_visible"}
    # patching is measured again because its pairs are
    assert stage_settings(after, "patching", *COMPARED) == stage_settings(before, "patching", *COMPARED)
    shipped["patching"] = {"alignment": "left"}
    with pytest.raises(ConfigError, match=r"patching\.alignment: input should be 'role', 'pad' or 'pad_visible'"):
        load_study(shipped)


def test_a_section_that_is_no_mapping_is_an_error_not_a_crash(shipped):
    for section in ("models", "datasets", "decodings", "attention"):
        with pytest.raises(ConfigError, match=section):
            load_study(shipped | {section: ["a", "list"]})


def test_stage_parameters_change_with_what_matters_and_with_nothing_else(shipped):
    before = load_study(shipped)
    shipped["generation"]["cpu_cache_mb"] = 512
    shipped["models"]["tiny-qwen"]["runtime_minutes"] = 5
    shipped["patching"] |= {"batch_tokens": 999}
    shipped["attention"] = {"batch_tokens": 999}
    faster = load_study(shipped)
    for stage in ("traces", "attention", "pairs", "patching"):
        assert stage_settings(before, stage, *COMPARED) == stage_settings(faster, stage, *COMPARED)
    shipped["generation"]["max_new_tokens"] = 50
    shorter = load_study(shipped)
    traces = [stage_settings(study, "traces", "tiny-qwen", "puzzles") for study in (before, shorter)]
    assert traces[0] != traces[1]
    assert stage_settings(before, "attention", *COMPARED) == stage_settings(shorter, "attention", *COMPARED)


def test_the_key_reference_is_in_step_with_the_schema():
    assert (ROOT / "config/README.md").read_text() == reference()


def keys_in(schema: dict, definitions: dict, place: str = "") -> set[str]:
    """The keys that a JSON schema describes, with * for any name; found in the file alone."""
    if "$ref" in schema:
        return keys_in(definitions[schema["$ref"].rpartition("/")[2]], definitions, place)
    found = set()
    for inside in (*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ())):
        found |= keys_in(inside, definitions, place)
    for name, inside in schema.get("properties", {}).items():
        found |= {f"{place}{name}"} | keys_in(inside, definitions, f"{place}{name}.")
    for inside in (*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")):
        found |= keys_in(inside, definitions, f"{place}*.") if isinstance(inside, dict) else set()
    return found


def fields_of(section: type[BaseModel], place: str = "") -> set[str]:
    """The same for a pydantic model."""
    found = set()
    for name, field in section.model_fields.items():
        found.add(f"{place}{name}")
        todo = [field.annotation]
        while todo:
            kind = todo.pop()
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                names = "*." if typing.get_origin(field.annotation) is dict else ""
                found |= fields_of(kind, f"{place}{name}.{names}")
            todo += typing.get_args(kind)
    return found


def test_the_schema_for_editors_is_in_step_and_has_every_key():
    assert (ROOT / "config/schema.json").read_text() == json_schema.text()
    schema = json.loads((ROOT / "config/schema.json").read_text())
    assert keys_in(schema, schema["$defs"]) >= fields_of(Study)
    assert all(section["additionalProperties"] is False for section in (schema, *schema["$defs"].values()))


@pytest.mark.parametrize("path", [*ROOT.glob("config/*.yaml"), *ROOT.glob("config/examples/*.yaml")], ids=str)
def test_shipped_configurations_name_the_schema_and_fit_it(path):
    config = yaml.safe_load(path.read_text())
    if "study" not in config:  # a recipe
        return
    marked = path.read_text().splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    schema = json.loads((path.parent / marked).read_text())
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(config)) == []
    config["models"]["unknown"] = {"dtyp": "float32"}
    (error,) = jsonschema.Draft202012Validator(schema).iter_errors(config)
    assert "dtyp" in error.message


def test_a_renamed_section_is_named_with_its_new_name(shipped):
    shipped["probes"] = {"n_repeats": 5}
    with pytest.raises(ConfigError, match="probes: is now called diagnostics; rename the key"):
        load_study(shipped)


def test_diagnostics_need_a_haystack_file_and_known_keys_of_a_needle(shipped):
    shipped["diagnostics"] = {"haystack": "resources", "needles": [{"needel": "5 red", "question": "?"}]}
    with pytest.raises(ConfigError) as error:
        load_study(shipped)
    for expected in (
        "diagnostics.haystack: resources is not a file",
        "diagnostics.needles.0.needel: unknown key; did you mean needle?",
        "diagnostics.needles.0.needle: missing",
    ):
        assert expected in str(error.value)
