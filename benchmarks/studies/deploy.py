"""Files of students for other runtimes, as `homodistil deploy` compared and timed them.

python -m benchmarks.studies.deploy NAME=FOLDER …    records what stands in the facts of deployed exports
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.studies.study import Study
from homodistil_hf.export.facts import read_facts
from homodistil_hf.export.outcome import RUNTIMES, runtime_cells
from homodistil_hf.files.strict_json import write_json
from homodistil_hf.tables import markdown_table

RECORD = Path("docs/results/deploy.json")


def record(folders: Sequence[str]) -> dict[str, Any]:
    """Name → the facts of a deployment, and how the student was trained; of words `NAME=FOLDER`."""
    found = {}
    for name, _, folder in (word.rpartition("=") for word in folders):
        facts = read_facts(Path(folder))
        found[name] = facts[RUNTIMES] | {"num_steps": facts.get("training", {}).get("num_steps")}
    return found


def runtimes_table(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row a model and file, without times, as the machine was busy; transformers.js runs ONNX's files."""
    rows = [
        (name, row | {"latency_ms": {}})
        for name, found in models.items()
        for row in found["rows"]
        if not row["runtime"].startswith("transformers.js")
    ]
    header, cells = runtime_cells([row for _, row in rows])
    return markdown_table(["student", *header], [[name, *cell] for (name, _), cell in zip(rows, cells, strict=True)])


STUDY = Study(RECORD, Path("docs/runtimes.md"), lambda models: {"runtimes": runtimes_table(models)})

if __name__ == "__main__":
    write_json(RECORD, record(sys.argv[1:]))
