"""`homodistil plan`: how wide a student will be and what it costs. `runs/plan.py` finds both."""

import json
from dataclasses import dataclass
from typing import ClassVar

from ..files.settings import flag
from ..runs.plan_question import PlanQuestion
from .command import Command, importing, log_progress, show_logs


@dataclass(kw_only=True)
class Plan(PlanQuestion, Command):
    """Say how wide a student will be and what it costs, from the teacher's configuration alone."""

    example: ClassVar[str] = "homodistil plan --teacher google-bert/bert-base-uncased --student macs=0.25"
    usage = "homodistil plan --teacher TEACHER (--student STUDENT | --latency_ms MS) [--key value …]"
    json: bool = flag("print JSON for machines", default=False)

    def run(self) -> int:
        """Print the plan."""
        with importing():
            from ..runs.plan import answer

        show_logs()
        facts, words = answer(self, log_progress)
        print(json.dumps(facts, indent=2) if self.json else words)
        return 0
