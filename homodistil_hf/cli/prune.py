"""`homodistil prune`: a smaller model without training; `methods/gradient_free` makes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..files.settings import flag
from ..tables import format_table
from .command import SettingsCommand, log_progress

_PADDED = "padded to the stock class"


@dataclass
class Prune(SettingsCommand):
    """Drop FFN neurons of a fine-tuned model, in forward passes on text without labels."""

    example: ClassVar[str] = "homodistil prune --model my-sst2-bert --unlabeled_data my.txt --output_dir runs/pruned"
    settings: ClassVar[str] = "homodistil_hf.methods.gradient_free.pruned_folder:PruneSettings"
    main_settings: ClassVar[tuple[str, ...]] = (
        *("model", "unlabeled_data", "task", "data_dir", "macs", "output_dir", "num_samples", "format"),
    )
    overwrite: bool = flag("replace an earlier export in --output_dir", default=False)

    def run_with(self, settings: Any, given: Mapping[str, Any]) -> int:
        """Prune, and print what is left."""
        from ..export.outcome import outcome_line
        from ..methods.gradient_free.pruned_folder import prune_to_folder

        facts = prune_to_folder(settings, log_progress, overwrite=self.overwrite)
        # of an uneven student also the stock class that it is padded to
        forms = facts["forms"] or {"compact": facts["student"]}
        rows = {"model": facts["teacher"], "pruned": forms["compact"], _PADDED: forms.get("padded")}
        print(format_table([{**costs, "name": name} for name, costs in rows.items() if costs]))
        code = " (needs trust_remote_code)" if facts["format"] == "compact" else ""
        written = f"{facts['format']} export{code} written to {settings.output_dir}"
        print("; ".join(filter(None, (outcome_line(facts), written))))
        return 0
