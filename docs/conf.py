"""Sphinx's settings for the documentation site: the pages in docs/ and the API reference read from the sources."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent

project = "r2a"
author = "The r2a authors"
project_copyright = author
release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_nb", "autoapi.extension"]
exclude_patterns = ["_build", "jupyter_execute"]  # the output of earlier builds
html_theme = "furo"
html_title = f"r2a {release}"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # a test runs the notebooks; the site shows their committed outputs

autoapi_dirs = [str(ROOT / "workflow" / "scripts" / "r2a")]
autoapi_root = "api"
autoapi_options = ["members", "show-module-summary", "undoc-members"]
autoapi_add_toctree_entry = False
autoapi_keep_files = False
suppress_warnings = [
    "myst.xref_missing",  # links to files in the repository that are not pages
    "autoapi.python_import_resolution",
    "docutils",  # docstrings are plain text
    "misc.highlighting_failure",  # csv and snakemake have no highlighting
]
