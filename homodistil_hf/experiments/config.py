"""A JSON file and flags → the settings of one run of `homodistil distill`, checked before anything else happens.

The JSON holds the fields of [`RunArguments`] and of the method's arguments; flags have the same names and override it.
The method is read first, as it decides which other settings there are. How words and values are checked:
`files/settings.py`. `distill.py` does what they ask for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..files.settings import RaisingParser, setting_types, split_config
from ..methods.masked_words import MaskedWordsRun
from ..methods.registry import METHODS, RUNS, method_for, run_named
from ..methods.run import Run
from ..methods.run_arguments import RunArguments, RunConfig

_A_FAMILY = 'give student a list, such as ["macs=0.5", "macs=0.25"]: each member is trained from the one before'
_NO_GUARD = "the guard is gone, as no recorded run gained by it; leave it out"
REMOVED_SETTINGS = {
    "snapshots": _A_FAMILY,
    "snapshot_recovery_steps": _A_FAMILY,
    "compaction_threshold": "units are removed as soon as they are dropped; leave it out",
    "activation_budget_mb": "use gradient_accumulation_steps or gradient_checkpointing",
    "discrepancy_guard": _NO_GUARD,
    "guard_ratio": _NO_GUARD,
    "guard_floor_nats": _NO_GUARD,
    "guard_patience_steps": _NO_GUARD,
    "guard_smoothing": _NO_GUARD,
}
"""Settings that earlier versions had, and what to do instead."""


def parse_run(words: Sequence[str]) -> RunConfig:
    """Read the settings of a run from `[CONFIG.json] [--key value …]`.

    Raises:
        ValueError: unknown keys, wrong types or values; the message names key, value and remedy.
        OSError: CONFIG.json can't be read.
    """
    values, flags, label = split_config(words)
    return _read(values, label, flags)


def run_of(values: Mapping[str, Any], label: str) -> RunConfig:
    """Make the settings of a run from values at hand; messages begin with `label`, errors as [`parse_run`]."""
    return _read(values, label, ())


def help_of(words: Sequence[str]) -> str:
    """Describe every setting of the method that the words of [`parse_run`] name."""
    values, flags, _ = split_config(words)
    return _run_for(values, flags).parser().format_help()


def setting_names() -> set[str]:
    """Name every setting that a run on masked words has with one method or another."""
    runs = [MaskedWordsRun(trainer) for name, trainer in METHODS.items() if name not in RUNS]
    return {name for run in runs for name in setting_types(*run.kinds)}


def _read(values: Mapping[str, Any], label: str, flags: Sequence[str]) -> RunConfig:
    run = _run_for(values, flags)
    for name in values:
        if name in REMOVED_SETTINGS:
            raise ValueError(f"{label} has {name}, which is no setting any more; {REMOVED_SETTINGS[name]}")
    for word in flags:
        if (name := word.removeprefix("--").partition("=")[0].replace("-", "_")) in REMOVED_SETTINGS:
            raise ValueError(f"--{name} is no setting any more; {REMOVED_SETTINGS[name]}")
    return run.read(values, label, flags)


def _run_for(values: Mapping[str, Any], flags: Sequence[str]) -> Run:
    """The run of the method that is named, else of the one that the teacher's folder is for."""
    parser = RaisingParser(add_help=False, allow_abbrev=False)
    for name in ("method", "teacher"):
        parser.add_argument(f"--{name}", nargs="?", default=values.get(name))
    found = parser.parse_known_args(list(flags))[0]
    default = RunArguments.__dataclass_fields__["method"].default
    if found.method in (None, default):
        found.method = (isinstance(found.teacher, str) and method_for(found.teacher)) or default
    return run_named(found.method)
