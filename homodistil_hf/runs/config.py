"""A JSON file and flags → the settings of one run of `homodistil distill`, checked before anything else happens.

The JSON holds the fields of [`RunArguments`] and of the method's arguments. Flags have the same names and override it.
The method is read first, because it decides which other settings there are. `files/settings.py` checks words and
values, `distill.py` runs the settings.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files.settings import RaisingParser, setting_types, split_config
from ..methods.masked_words import MaskedWordsRun
from ..methods.registry import METHODS, RUNS, method_for, run_named
from ..methods.run import Run
from ..methods.run_arguments import RunArguments, RunConfig


def parse_run(words: Sequence[str]) -> RunConfig:
    """Read the settings of a run from `[CONFIG.json] [--key value …]`.

    Raises:
        ValueError: unknown keys, wrong types or values; the message names key, value and remedy.
        OSError: CONFIG.json can't be read.
    """
    values, flags, label = split_config(words)
    return run_of(values, label, flags)


def run_of(values: Mapping[str, Any], label: str, flags: Sequence[str] = ()) -> RunConfig:
    """Make the settings of a run from values at hand; messages begin with `label`, errors as [`parse_run`]."""
    return _run_for(values, flags).read(values, label, flags)


def help_of(words: Sequence[str]) -> str:
    """Describe every setting of the method that the words of [`parse_run`] name."""
    values, flags, _ = split_config(words)
    return _run_for(values, flags, asks_hub=False).parser().format_help()


def setting_names() -> set[str]:
    """Name every setting that a run on masked words has with one method or another."""
    runs = [MaskedWordsRun(trainer) for name, trainer in METHODS.items() if name not in RUNS]
    return {name for run in runs for name in setting_types(*run.kinds)}


def _run_for(values: Mapping[str, Any], flags: Sequence[str], *, asks_hub: bool = True) -> Run:
    """The run of the named method, else of the method that the teacher and the rows are for."""
    # only what decides on the method is read here; the method's own parser checks all words
    parser = RaisingParser(add_help=False, allow_abbrev=False)
    for name in ("method", "teacher", "label_column", "text_column", "train_split", "hub_token"):
        parser.add_argument(f"--{name}", nargs="?", default=values.get(name))
    for name in ("train_data", "text_columns", "teacher_vectors"):
        parser.add_argument(f"--{name}", nargs="*", default=values.get(name))
    found = vars(parser.parse_known_args(list(flags))[0])
    teacher, default = found["teacher"], RunArguments.__dataclass_fields__["method"].default
    is_here = isinstance(teacher, str) and Path(teacher).is_dir()
    # the default is no choice: teacher and rows may be those of another method
    if found["method"] in (None, default):
        claimed = method_for(teacher if is_here or (asks_hub and isinstance(teacher, str)) else "", found)
        found["method"] = claimed or default
    return run_named(found["method"], teacher if is_here else None)
