"""A family from one run: the students on the way, each evaluated and exported when the masks leave exactly its widths.

Which students these are, and when the masks are there, is decided elsewhere. A snapshot is a standard export like any
other; the table of all of them is written to `snapshots.json`.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..export.export_folder import check_target
from ..export.facts import run_facts
from ..files.strict_json import write_json
from ..models.cost import COSTS, planned_facts
from ..models.widths import nearest_paddable
from ..plans.snapshots import Snapshot
from .publishing import PublishingTrainer

logger = logging.getLogger(__name__)

SNAPSHOTS_FOLDER = "snapshots"
SNAPSHOTS_FILE = "snapshots.json"


class SnapshotTrainer(PublishingTrainer):
    """`PublishingTrainer` that exports students on the way; subclasses say which and call `look_back` after each step.

    The table holds what the run as it stands has passed: a run that is resumed from an older checkpoint comes by the
    later ones again, and makes the same once more.
    """

    snapshots: Sequence[Snapshot] = ()
    snapshot_rows: Sequence[Mapping[str, Any]] = ()

    def look_back(self) -> None:
        """At the end of a step: if the rest at a waypoint is over, evaluate and export the student; on all ranks."""
        waypoint = self.pruner.waypoint_due(self.state.global_step)
        if waypoint is None:
            return
        # Looking at the student must leave no trace in the run: models draw their first weights, loaders their seeds.
        device = self.args.device
        with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type=device.type):
            self._take(self.snapshots[waypoint])
        self.accelerator.wait_for_everyone()

    def _take(self, snapshot: Snapshot) -> None:
        if self.eval_dataset is not None:
            self.evaluate()
        folder = Path(self.args.output_dir) / SNAPSHOTS_FOLDER / snapshot.name
        if self.is_world_process_zero():
            self._write_export(folder, allow_partial=True, training={"snapshot": snapshot.name})
        self.snapshot_rows = [*self.snapshot_rows, self._row(snapshot)]
        self.write_snapshot_table()
        logger.info("step %d: snapshot %s is in %s", self.state.global_step, snapshot.name, folder)

    def _row(self, snapshot: Snapshot) -> dict[str, Any]:
        """What the export tells, without reading it: other nodes may not see it, and keep checkpoints of their own."""
        kept, student = self.pruner.kept, self.pruner.model
        stock_name = type(student).__name__.removeprefix("Homo")
        costs = planned_facts(student.config, stock_name, nearest_paddable(kept).padded())
        return {
            "name": snapshot.name,
            "folder": f"{SNAPSHOTS_FOLDER}/{snapshot.name}",
            "step": self.state.global_step,
            "plan": kept.to_dict(),
            **{name: costs[name] for name in COSTS},
            "evaluation": run_facts(self.run_facts()).get("evaluation", {}),
        }

    def write_snapshot_table(self) -> None:
        """Bring the table in `output_dir` to what this run has passed; nothing but on the main process."""
        path = Path(self.args.output_dir) / SNAPSHOTS_FILE
        if not self.is_world_process_zero():
            return
        if self.snapshot_rows:
            # In a checkpoint keys are sorted, so a resumed run has them in that order only.
            write_json(path, list(self.snapshot_rows), sort_keys=True)
        else:
            path.unlink(missing_ok=True)

    def log_state(self) -> dict[str, Any]:
        """Also the table so far; see [`ResumableTrainer.log_state`].

        Returns:
            `dict` of JSON values.
        """
        return super().log_state() | {"snapshots": list(self.snapshot_rows)}

    def restore_log_state(self) -> None:
        """Also the table; see [`ResumableTrainer.restore_log_state`]."""
        super().restore_log_state()
        if self.resumed_logs is not None:
            self.snapshot_rows = self.resumed_logs.get("snapshots", [])
        self.write_snapshot_table()


def check_snapshot_folders(output_dir: str, snapshots: Sequence[Snapshot]) -> None:
    """Make sure that all snapshots of a run can be written, before it starts.

    Args:
        output_dir: of the run.
        snapshots: of the run.

    Raises:
        ValueError: a folder holds something else than an export.
    """
    for snapshot in snapshots:
        check_target(Path(output_dir) / SNAPSHOTS_FOLDER / snapshot.name, overwrite=True)
