"""`homodistil latency`: forward passes of exports on this machine, side by side; see `plans/latency.py`."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from ..files.folders import check_writable_file
from ..files.messages import first_line
from ..files.settings import flag
from .command import Command, log_progress, show_logs, write_output


@dataclass(kw_only=True)
class Latency(Command):
    """Compare how long forward passes take here, no head: exports, of nested ones all sizes, and their teacher."""

    example: ClassVar[str] = "homodistil latency runs/my-student/student --teacher google-bert/bert-base-uncased"
    folders: list[str] = flag(
        "exports, or folders of runs, whose forward passes are compared", positional=True, metavar="FOLDER"
    )
    teacher: str | None = flag(
        "Hub name or folder to compare with (default: as the run of one FOLDER recorded it)", default=None
    )
    batch_sizes: tuple[int, ...] = flag("sequences a forward pass", default=(1, 32))
    lengths: tuple[int, ...] = flag("tokens a sequence", default=(16, 128))
    backends: tuple[str, ...] = flag("ways to run them", default=("torch", "compiled", "onnxruntime"))
    rounds: int = flag("timed passes of every model", default=15)
    output: str | None = flag("write all numbers as JSON", default=None, metavar="FILE")

    def run(self) -> int:
        """Time the models, and print a table."""
        from ..export.export_folder import student_in
        from ..export.nested import NESTED_FILE, member_names
        from ..methods.formats import load_nested
        from ..models.loading import load_encoder
        from ..plans.latency import LatencyGrid, compare_latencies, format_latencies

        show_logs()
        if self.output is not None:
            check_writable_file(self.output, f"output={self.output!r}")
        grid = LatencyGrid(self.batch_sizes, self.lengths, self.backends, self.rounds)
        models: dict[str, Any] = {}
        for folder in self.folders:
            found = student_in(folder)  # also in a run's folder
            if (found.folder / NESTED_FILE).is_file():
                sizes = {f"{folder} {name}": load_nested(folder, name) for name in member_names(found.folder)}
                models |= {name: getattr(model, "encoder", model) for name, model in sizes.items()}
            else:
                # a name on the Hub is no path
                place = str(found.folder) if found.kind == "export" else folder
                models[folder] = load_encoder(place, argument="folder", needs_head=False)
        if self.teacher is not None:
            models = {self.teacher: load_encoder(self.teacher, argument="teacher", needs_head=False)} | models
        elif len(self.folders) == 1 and (recorded := student_in(self.folders[0]).teacher):
            try:
                models = {recorded: load_encoder(recorded, argument="teacher", needs_head=False)} | models
            except (OSError, ValueError) as error:
                log_progress(
                    f"teacher={recorded!r}, as the run recorded it, can't be loaded, so the student is timed alone; "
                    f"name one with --teacher: {first_line(error)}"
                )
        results = compare_latencies(models, grid, say=log_progress)
        if self.output is not None:
            write_output(self.output, json.dumps(results, indent=1) + "\n")
        print(format_latencies(results))
        return 0
