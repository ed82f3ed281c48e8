"""`homodistil report`: the page on a run, from its records; `export/report.py` writes it."""

from dataclasses import dataclass
from typing import ClassVar

from ..files.settings import flag
from .command import Command


@dataclass(kw_only=True)
class Report(Command):
    """Write report.html of a run: what was won, curves, shape, settings, and the next commands."""

    example: ClassVar[str] = "homodistil report runs/my-student"
    folder: str = flag("output_dir of a run", positional=True, metavar="RUN")
    student: str | None = flag("its export (default: the one in RUN)", default=None, metavar="DIR")
    output: str | None = flag("file to write (default: RUN/report.html)", default=None, metavar="FILE")

    def run(self) -> int:
        """Write the page, and print what was won and its place."""
        from ..export.report import closing_line, write_report

        write_report(self.folder, self.student, output=self.output)
        print(closing_line(self.folder, self.student, output=self.output))
        return 0
