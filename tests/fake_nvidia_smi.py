"""An nvidia-smi that answers queries about invented GPUs."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

H100 = {
    "index": "0", "name": "NVIDIA H100 80GB HBM3", "driver_version": "580.95.05", "compute_cap": "9.0",
    "memory.free": "81000", "memory.total": "81559", "compute_mode": "Default", "mig.mode.current": "Disabled",
    "memory.reserved": "500", "uuid": "GPU-00000000",
}  # fmt: skip
PROGRAM = """#!{python}
import json, sys
known = json.loads({known!r})
options = dict(each.removeprefix("--").partition("=")[::2] for each in sys.argv[1:])
if known["says"]:
    print(known["says"])
    sys.exit(known["code"])
if "query-compute-apps" in options:
    print("\\n".join(known["processes"]))
    sys.exit()
ids = options["id"].split(",") if "id" in options else [gpu["index"] for gpu in known["gpus"]]
for gpu in known["gpus"]:
    fields = options["query-gpu"].split(",")
    unknown = [field for field in fields if field not in gpu]
    if unknown:
        print(f'Field "{{unknown[0]}}" is not a valid field to query.')
        sys.exit(2)
    if gpu["index"] in ids:
        print(", ".join(gpu[field] for field in fields))
"""


def write_nvidia_smi(
    folder: Path,
    gpus: Sequence[Mapping[str, str | None]] = (),
    processes: Sequence[str] = (),
    says: str = "",
    code: int = 0,
) -> None:
    """Write the program into a folder that PATH names.

    gpus: what differs from an H100; None for a field that this version does not know. processes: lines about those that
    hold memory. says, code: what it prints, and its exit code, instead of any answer.
    """
    known = [
        {key: value for key, value in (H100 | {"index": str(number)} | dict(gpu)).items() if value is not None}
        for number, gpu in enumerate(gpus)
    ]
    told = json.dumps({"gpus": known, "processes": list(processes), "says": says, "code": code})
    program = folder / "nvidia-smi"
    program.write_text(PROGRAM.format(python=sys.executable, known=told))
    program.chmod(0o755)
