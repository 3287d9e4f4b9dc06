"""Registered things are found by their source alone, in the project and in installed packages."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from r2a import registry
from r2a.figures.registry import Figure
from r2a.registry import Entry, Registry, RegistryError

SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"
HEAVY = {"torch", "pandas", "numpy", "matplotlib", "h5py", "scipy", "transformers", "vllm"}


@dataclass(kw_only=True)
class Fruit(Entry):
    colour: str


@pytest.fixture
def fruits(tmp_path, monkeypatch):
    """Write a package of modules by name; return the registry of the fruits in it."""
    monkeypatch.syspath_prepend(tmp_path)
    registry._modules.cache_clear()

    def written(**modules):
        folder = tmp_path / "orchard"
        folder.mkdir(exist_ok=True)
        for name, text in ({"__init__": ""} | modules).items():
            (folder / f"{name}.py").write_text(text)
        return Registry("fruit", Fruit, "orchard", prefix="grow_")

    yield written
    registry._modules.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "orchard"]:
        del sys.modules[name]


PEAR = """import no_such_module

@fruit(label="a pear", colour="green", version=3)
def grow_pear(n):
    \"""A pear.

    More.
    \"""
"""


def test_names_labels_and_versions_are_known_without_importing_the_module(fruits):
    found = fruits(pears=PEAR)
    assert list(found) == ["pear"]
    assert (found["pear"].label, found["pear"].colour, found["pear"].purpose) == ("a pear", "green", "A pear.")
    assert found.versions(["pear"]) == {"pear": 3}
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        _ = found["pear"].function


def test_an_unknown_name_is_an_error_that_lists_the_known_ones(fruits):
    found = fruits(pears=PEAR, plums='@fruit(label="plum", colour="blue")\nclass plum: ...\n')
    with pytest.raises(RegistryError, match="'fig' is not a known fruit; known: pear, plum"):
        found["fig"]
    assert "fig" not in found
    assert "pear" in found


@pytest.mark.parametrize(
    ("decorator", "told"),
    [
        ('@fruit(label=f"{1}", colour="red")', "must be literals: label, version, colour"),
        ('@fruit(label="a", taste="sweet")', "unexpected keyword argument"),
        ('@fruit(label="a")', "missing 1 required"),
    ],
)
def test_a_decorator_that_cannot_be_read_is_named_with_its_line(fruits, decorator, told):
    with pytest.raises(RegistryError, match=rf"wrong.py:2: @fruit cannot be read .*{told}|wrong.py:2: .*{told}"):
        list(fruits(wrong=f"\n{decorator}\ndef grow_x(): ...\n"))


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"scope": "model"}, "scope 'model' is none of study, model and dataset"),
        ({"category": "Mine"}, "category 'Mine' is none of 1 Answers, 2 Attention"),
    ],
)
def test_a_figure_that_no_page_would_show_is_refused(entry, told):
    fields = {"scope": "study", "analysis": "a", "reads": {}, "category": "1 Answers", "label": "x", "caption": "n."}
    with pytest.raises(ValueError, match=told):
        Figure(**fields | entry)


def test_two_of_one_name_are_refused_with_both_places(fruits):
    with pytest.raises(RegistryError, match=r"named pear: orchard.a:grow_pear and orchard.b:grow_pear; rename one"):
        list(fruits(a=PEAR, b=PEAR))


def test_an_entry_point_that_leads_nowhere_is_named(tmp_path, monkeypatch):
    info = tmp_path / "gone-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gone\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[r2a.plugins]\ngone = no_such_plugin\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._plugin_modules.cache_clear()
    with pytest.raises(RegistryError, match=r"'gone' of r2a.plugins names 'no_such_plugin', which cannot be found"):
        registry._plugin_modules()
    registry._plugin_modules.cache_clear()


def test_an_installed_package_adds_its_own(tmp_path):
    (tmp_path / "extra.py").write_text(
        "from r2a.extensions import perturbation_kind\n\n"
        '@perturbation_kind(label="nothing", version=7)\ndef nothing(given):\n    """Nothing at all."""\n'
    )
    info = tmp_path / "extra-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[r2a.plugins]\nextra = extra\n")
    code = (
        "from r2a.extensions import PERTURBATION_KINDS as kinds; from r2a.study.settings import Perturbation; "
        "print(list(kinds)[-1], kinds['nothing'].version, kinds['nothing'].function.__name__, "
        "Perturbation(kinds=['nothing']).kinds)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=SCRIPTS, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "nothing 7 nothing ['nothing']\n"


def test_the_snakefile_learns_of_all_that_is_registered_without_a_heavy_import():
    code = (
        "import sys; from r2a.figures.registry import FIGURES; assert len(FIGURES) > 15; "
        "from r2a.study import load_study; print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())
