"""`homodistil prune`: a JSON file and flags that override it → a pruned model. How it is pruned isn't here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..tables import format_table
from .parsing import flag, parse_over_config, show_logs, tell

_MAIN_SETTINGS = ("model", "unlabeled_data", "task", "data_dir", "macs", "output_dir", "num_samples", "format")
_PADDED = "padded to the stock class"


@dataclass(kw_only=True)
class Prune:
    """Drop FFN neurons of a fine-tuned model, in forward passes on text without labels."""

    example: ClassVar[str] = "homodistil prune --model my-sst2-bert --unlabeled_data my.txt --output_dir runs/pruned"
    config: str | None = flag("settings by name", default=None, positional=True, nargs="?", metavar="CONFIG.json")
    overwrite: bool = flag("replace an earlier export in --output_dir", default=False)


def run_prune(words: Sequence[str]) -> int:
    """Run the command, with every setting as a flag, and return its exit status."""
    from ..evaluation.fine_tuning import settings_from
    from ..experiments.prune import PruneSettings, prune_to_folder

    page = "docs/gradient_free.md"
    flags, values = parse_over_config("prune", words, Prune, PruneSettings, shown_names=_MAIN_SETTINGS, page=page)
    show_logs()
    settings = settings_from(PruneSettings, values)
    facts = prune_to_folder(settings, tell, overwrite=flags.overwrite)
    print(format_costs(facts))
    print(f"{facts['format']} export written to {settings.output_dir}")
    return 0


def format_costs(facts: Mapping[str, Any]) -> str:
    """A table of the model, of what is left of it, and of that as the stock class; from an export's facts."""
    forms = facts["forms"] or {"compact": facts["student"]}
    rows = {"model": facts["teacher"], "pruned": forms["compact"], _PADDED: forms.get("padded")}
    return format_table([{**costs, "name": name} for name, costs in rows.items() if costs])
