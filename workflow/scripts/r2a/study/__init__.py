"""A study: what its configuration may say, whether it holds together, and what each stage depends on.

Read at every parse of the Snakefile, on every cluster job: no heavy import here.
"""

from r2a.study.checks import ConfigError, load_study
from r2a.study.schema import PAPER_NUMBERS, Study
from r2a.study.settings import Patching
from r2a.study.stages import stage_settings
from r2a.study.subjects import CONDITIONS, Dataset, Model

__all__ = [
    "CONDITIONS",
    "PAPER_NUMBERS",
    "ConfigError",
    "Dataset",
    "Model",
    "Patching",
    "Study",
    "load_study",
    "stage_settings",
]
