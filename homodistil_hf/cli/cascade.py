"""`homodistil cascade`: which queries of a small student its teacher should encode, by held-out queries."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .command import SettingsCommand, log_progress


@dataclass
class CascadeCommand(SettingsCommand):
    """Let the teacher encode the queries that a student is in doubt about: how many, and what it brings."""

    example: ClassVar[str] = "homodistil cascade --model runs/embeddings --queries q.txt --documents d.parquet"
    settings: ClassVar[str] = "homodistil_hf.embedding.cascade:CascadeSettings"
    main_settings: ClassVar[tuple[str, ...]] = (
        *("model", "teacher", "agreement", "queries", "documents", "data_dir", "output_dir"),
    )

    def run_with(self, settings: Any, given: Mapping[str, Any]) -> int:
        """Measure, and print the curves."""
        from ..embedding.cascade import format_cascade, measure_cascade

        print(format_cascade(measure_cascade(settings, log_progress)))
        return 0
