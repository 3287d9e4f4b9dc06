"""Fixtures that all tests share."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Hypothesis draws the same examples each time, and takes all the time that it needs.
settings.load_profile("ci")

# Tiny models gain nothing from a second thread, and threads that wait for each other stall on a busy machine.
# torch reads this when it is imported; Snakemake gives its jobs their own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The servers that tests talk to are on this machine, whatever proxy it uses for others.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let only tests that are marked gpu see GPUs: the others compare with what a CPU computes, on tensors there.

    Studies that tests run are processes of their own, and use what the environment is for.
    """
    if "torch" in sys.modules:
        cuda = sys.modules["torch"].cuda
        seen.setdefault("is_available", cuda.is_available)
        cuda.is_available = seen["is_available"] if item.get_closest_marker("gpu") else lambda: False


seen: dict[str, Any] = {}  # torch's own function


@pytest.fixture(autouse=True)
def _no_storage_of_workflows() -> Iterator[None]:
    """vLLM inspects what modules hold, and fails on what Snakemake keeps there after it has planned in this process."""
    yield
    if "snakemake.workflow" in sys.modules:
        vars(sys.modules["snakemake.workflow"]).pop("storage", None)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of the paper's published data beside the checkout; without it, tests that need it are skipped."""
    if not REFERENCE.is_dir():
        pytest.skip(f"the paper's published data is not at {REFERENCE}; tests/README.md says what to put there")
    return REFERENCE


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-models", action="store_true", help="write what architectures give into docs/models.md")
