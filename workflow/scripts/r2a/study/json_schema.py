"""config/schema.json, which editors complete and check a configuration by: python -m r2a.study.json_schema"""

import json
from pathlib import Path
from typing import Any

from r2a.study.schema import Study


def json_schema() -> dict[str, Any]:
    """The configuration's JSON schema (draft 2020-12), from the same model that checks it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Study.model_json_schema()}


def text() -> str:
    return json.dumps(json_schema(), indent=1) + "\n"


if __name__ == "__main__":
    Path("config/schema.json").write_text(text())
