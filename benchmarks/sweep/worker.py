"""The process of one cell, run by `python -m`; JSON on its standard input names the cell and its folder.

With a process a cell all memory is given back, and a killed process takes no other cell with it. An error ends the
process with a traceback in the cell's log.
"""

import json
import logging
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.sweep.cells import Cell
from benchmarks.sweep.folder import SweepFolder, as_cell, held, record_head

TAKEN_STATUS = 75  # EX_TEMPFAIL, which not every system names
"""What the process ends with where another one is at the cell."""

logger = logging.getLogger("homodistil_hf")


def task_text(cell: Cell, folder: SweepFolder, evaluate: Mapping[str, Any]) -> str:
    """Write down a worker's task: its cell, the sweep's folder, the evaluations of the finished student."""
    return json.dumps({"cell": record_head(cell), "root": str(folder.root), "evaluate": dict(evaluate)})


def main(text: str) -> int:
    """Do the task in a text of [`task_text`]; return the exit status, 0 or `TAKEN_STATUS`."""
    task = json.loads(text)
    cell, folder = as_cell(task["cell"]), SweepFolder(Path(task["root"]))
    _show_logs()
    with held(folder.lock(cell)) as is_ours:
        if not is_ours:
            return TAKEN_STATUS
        from benchmarks.sweep.training import (
            run_cell,  # seconds of imports: other processes should see the lock at once
        )

        run_cell(cell, folder, task["evaluate"], logger.info)
    return 0


def _show_logs() -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logging.basicConfig(format="%(asctime)s %(message)s")
    logger.setLevel(logging.INFO)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it here, too; the sweep passes on SIGTERM for it
    sys.exit(main(sys.stdin.read()))
