"""`homodistil deploy`: add graphs for other runtimes to an export, each tried in its runtime."""

import textwrap
from dataclasses import dataclass
from typing import Any, ClassVar

from ..files.settings import flag
from .command import Command, show_logs


@dataclass(kw_only=True)
class Deploy(Command):
    """Add files for other runtimes to an export, each compared with the student in its runtime."""

    example: ClassVar[str] = "homodistil deploy runs/my-student --to onnx onnx-int8 transformers.js"
    folder: str = flag("export, or finished run", positional=True, metavar="FOLDER")
    to: list[str] = flag("onnx onnx-int8 onnx-fp16 openvino transformers.js", metavar="TARGET")
    least: float = flag("cosine, or share of equal answers, below which a file is not written", default=0.98)
    teacher: str | None = flag("folder or Hub name, timed beside it; default: as the run recorded it", default=None)
    texts: str | None = flag("file of your own texts, one a line, a tabulator inside a pair", default=None)
    num_rounds: int = flag("timed rounds; 0: no times", default=7)
    member: str | None = flag(
        "of a nested student, with --output: macs=0.25, latency_ms=5 (the largest so fast here), or all", default=None
    )
    output: str | None = flag("folder for the member; of all a folder each in there", default=None, metavar="DIR")
    overwrite: bool = flag("replace earlier exports in DIR", default=False)

    def run(self) -> int:
        """Write the files and print what they measure; status 1 if a file is below the bar or can't be made."""
        from ..export.outcome import runtime_cells
        from ..methods.formats import deploy_members

        show_logs()
        names = ("member", "output", "overwrite", "teacher", "least", "texts", "num_rounds")
        how: Any = {name: getattr(self, name) for name in names}
        found, is_whole = deploy_members(self.folder, self.to, **how), True
        for name, rows in found.items():
            (_, *headings), cells = runtime_cells(rows)
            for file, *values in cells:
                words = "; ".join(f"{head}: {value}" for head, value in zip(headings, values, strict=True) if value)
                print(f"{name} {file}".strip())
                print(textwrap.fill(words, 96, initial_indent="  ", subsequent_indent="  "))
            is_whole &= all(row["is_written"] for row in rows) and {*self.to} <= {row["target"] for row in rows}
        return int(not is_whole)
