"""`homodistil deploy`: add graphs for other runtimes to an export, each tried in its runtime."""

import textwrap
from dataclasses import dataclass
from typing import ClassVar

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

    def run(self) -> int:
        """Write the files and print what they measure; status 1 if a file is below the bar or can't be made."""
        from ..export.outcome import runtime_cells
        from ..methods.formats import deploy_export

        show_logs()
        rows = deploy_export(
            self.folder,
            self.to,
            teacher=self.teacher,
            least=self.least,
            texts=self.texts,
            num_rounds=self.num_rounds,
        )
        (_, *names), cells = runtime_cells(rows)
        for file, *values in cells:
            words = "; ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True) if value)
            print(file, textwrap.fill(words, 96, initial_indent="  ", subsequent_indent="  "), sep="\n")
        return int(any(not row["is_written"] for row in rows) or not {*self.to} <= {row["target"] for row in rows})
