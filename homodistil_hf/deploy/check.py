"""Checks the graphs of a deployed export against the model in its folder, for `homodistil verify`."""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..export.runtimes import runtime_rows
from ..files.messages import first_line, short_repr
from ..files.strict_json import is_number
from ..models.onnx_graphs import missing_packages
from .deployable import Deployable
from .proof import EXACT, PROBED, probe_distance, runtime_of
from .targets import TARGETS

_SLACK = 2.0
"""How far the distance of an int8 graph may be above the stated one: processors round otherwise."""


def graph_problems(folder: Path, facts: Mapping[str, Any], deployable: Deployable) -> Iterator[str]:
    """Graphs whose results are farther from the model's than `facts.json` says.

    Args:
        folder: an export that has no other problems.
        facts: content of its `facts.json`.
        deployable: the model in it.
    """
    for row in rows_to_run(facts):
        name, file, stated = row["target"], row["file"], row.get("probe_distance")
        if TARGETS[name].file != file or not (folder / file).is_file() or not is_number(stated):
            yield f"{file}: expected the file of {name} and its distance, found {short_repr(stated)}"
            continue
        if not can_run(name):
            continue
        try:
            found = probe_distance(deployable, runtime_of(name)(deployable, folder / file))
        except Exception as error:  # noqa: BLE001 - runtimes raise errors of their own kinds
            yield f"{file}: can't be run by {TARGETS[name].runtime}: {first_line(error)}"
            continue
        limit = max(_SLACK * stated, EXACT)
        # written so that NaN is a problem, too
        if not found <= limit:
            yield f"{file}: expected results within {limit:.1e} of the model's, found a distance of {found:.3g}"


def skipped_graphs(facts: Mapping[str, Any]) -> list[str]:
    """Files that can't be checked here, with the reason."""
    return [
        f"{row['file']}: not run, {TARGETS[row['target']].runtime} is not installed: "
        f"pip install 'homodistil-hf[{TARGETS[row['target']].extra}]'"
        for row in rows_to_run(facts)
        if not can_run(row["target"])
    ]


def can_run(target: str) -> bool:
    """Whether the runtime of a target is installed."""
    if target == "openvino":
        return importlib.util.find_spec("openvino") is not None
    return not missing_packages()


def rows_to_run(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of facts whose files runtimes in this process can run; empty for an export that is not deployed."""
    return [row for row in runtime_rows(facts) if row["target"] in PROBED and row["is_written"]]
