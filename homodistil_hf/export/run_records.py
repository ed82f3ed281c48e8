"""What a run has written down in its folder: settings, results, logs and the facts of its student; nothing is loaded.

A chain of sizes, rounds and stages have a folder each in that of the run. Records of older runs may lack some.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files.checkpoints import sorted_checkpoints
from ..files.run_names import (
    MODEL_FOLDERS,
    RESULTS_FILE,
    SETTINGS_FILE,
    STATE_OF_TRAINER,
    STUDENT_FOLDER,
    run_of_model,
)
from ..files.strict_json import fits, is_int, is_number, read_json, read_json_object
from .charts import Line
from .facts import CARD_FILE, DATA, FACTS_FILE

TABLES = "tables"
"""Of results: further tables for the report, each with `title`, `headings` and `rows` of words."""
_PART = re.compile(r"(?:round|stage)-\d+|\d+-.+")


@dataclass(frozen=True)
class RunRecords:
    """The records of one run.

    Args:
        folder: of the run.
        student: folder of what it has made; None where there is none.
        settings: as they were given.
        results: content of `results.json`.
        facts: of the student.
        logs: Trainer's, entry by entry.
        parts: of the members of a chain, of rounds or stages, in order.
    """

    folder: Path
    student: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    logs: tuple[Mapping[str, Any], ...] = ()
    parts: tuple["RunRecords", ...] = ()

    @property
    def card(self) -> str:
        """Text of the student's card; empty where there is none."""
        file = None if self.student is None else self.student / CARD_FILE
        return file.read_text(encoding="utf-8", errors="replace") if file and file.is_file() else ""

    def line(self, name: str) -> Line:
        """The values of a log by step, without those that are no finite numbers."""
        found = {entry["step"]: entry[name] for entry in self.logs if is_int(entry.get("step")) and name in entry}
        return sorted((step, float(value)) for step, value in found.items() if _is_finite(value))

    def names(self) -> list[str]:
        """The names of all values in the logs, each once."""
        return list(dict.fromkeys(name for entry in self.logs for name in entry))


def read_records(folder: str | Path, student: str | Path | None = None) -> RunRecords:
    """Read the records of a run.

    Args:
        folder: of the run.
        student: the export that it made; default: the one inside.

    Raises:
        ValueError: no such folder, no records in it, or a file of settings, results or facts that is no JSON object.
    """
    place = Path(folder)
    if not place.is_dir():
        raise ValueError(f"folder={str(folder)!r} does not exist; name the output_dir of a run")
    # an export inside a run stands for the run
    if (place / FACTS_FILE).is_file():
        place = run_of_model(place) or place
    records = _read(place, None if student is None else Path(student))
    if not (records.results or records.facts or records.logs or any(part.logs for part in records.parts)):
        raise ValueError(
            f"folder={str(folder)!r} holds no records of a run ({RESULTS_FILE}, {STUDENT_FOLDER}/{FACTS_FILE}, "
            f"{STATE_OF_TRAINER}); name the output_dir of a run that has ended"
        )
    return records


def _read(folder: Path, student: Path | None = None) -> RunRecords:
    names = [path.name for path in folder.iterdir() if path.is_dir() and _PART.fullmatch(path.name)]
    # by their number: 2-… before 10-…, round-2 before round-10
    parts = (_read(folder / name) for name in sorted(names, key=lambda name: int(re.findall(r"\d+", name)[0])))
    parts_with_records = tuple(part for part in parts if part.logs or part.facts)
    if student is None:
        student = next((folder / name for name in MODEL_FOLDERS if (folder / name).is_dir()), None)
    if student is None and parts_with_records:
        student = parts_with_records[-1].student
    results = _results(folder / RESULTS_FILE)
    facts = {} if student is None else _object(student / FACTS_FILE)
    return RunRecords(
        folder,
        student,
        settings=_object(folder / SETTINGS_FILE),
        results=results,
        facts=facts or _facts_of_fine_tuning(results),
        logs=_logs(folder),
        parts=parts_with_records,
    )


def _facts_of_fine_tuning(results: Mapping[str, Any]) -> dict[str, Any]:
    """What `homodistil finetune` has measured, in the sections that an export's facts have; nothing of other runs."""
    if not fits(results, {"metrics": dict, "model": dict, "settings": dict, "num_eval_rows": int}):
        return {}
    rows = Path(str(results["settings"].get("eval_data"))).name
    found = {"evaluation": results["metrics"], "teacher_evaluation": results.get("teacher_metrics")}
    found |= {"student": results["model"], "teacher": results.get("teacher")}
    found |= {DATA: {"num_held_out_rows": results["num_eval_rows"], "held_out": [rows]}}
    return {name: section for name, section in found.items() if section is not None}


def _results(file: Path) -> dict[str, Any]:
    """Results of one model; those of `homodistil demo` are rows of three."""
    found = read_json(file, str(file)) if file.is_file() else {}
    return {} if isinstance(found, list) else _object(file)


def _object(file: Path) -> dict[str, Any]:
    return read_json_object(file, str(file)) if file.is_file() else {}


def _logs(folder: Path) -> tuple[Mapping[str, Any], ...]:
    """The newest of the states that Trainer has saved; an older run has them in checkpoints alone."""
    places = [folder, *sorted_checkpoints(folder)[:1]]
    files = [place / STATE_OF_TRAINER for place in places if (place / STATE_OF_TRAINER).is_file()]
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        try:
            # Leniently: Trainer writes NaN among the logs, such as the norm of a step that was skipped.
            history = json.loads(file.read_text(encoding="utf-8"))["log_history"]
            return tuple(entry for entry in history if isinstance(entry, dict))
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            continue
    return ()


def _is_finite(value: Any) -> bool:
    return is_number(value) and abs(value) < float("inf")
