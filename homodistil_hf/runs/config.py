"""A JSON file and flags → the settings of one run of `homodistil distill`, checked before anything else happens.

The JSON holds the fields of [`RunArguments`] and of the method's arguments. Flags have the same names and override it.
The words of the flags that name method, teacher and rows decide on the kind of run, and so on which other settings
there are. `files/settings.py` checks all words and values, `distill.py` runs the settings.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..files.flags import SettingsParser, without_tilde
from ..files.messages import short_repr
from ..files.settings import build, differing, setting_types, split_config
from ..homodistil_args import with_recipe
from ..plans.budgets import listed_students
from ..plans.resolve import member_folder
from ..training_args import UNSUPPORTED
from .kinds import (
    Kind,
    StudentKind,
    method_for,
    run_kind_for,
    trainer_named,
)
from .settings import RunArguments, RunConfig

SETTINGS_OF_ONE_CALL = ("resume_from_checkpoint", "overwrite_output_dir")
"""Settings that decide how a run is started, and are none of the run itself."""
_COUNT_WHEN_NAMED = (
    *("num_train_epochs", "max_eval_blocks", "hidden_weight", "embedding_weight"),
    *("eval_strategy", "logging_strategy", "logging_steps", "train_sampling_strategy"),
)
"""Settings that are given also with their default: other kinds of run have another one, or choose one by the rows."""
_OF_ROWS = ("train_data", "text_columns", "teacher_vectors")
"""Settings of several words that decide on the kind of run."""


def parse_run(words: Sequence[str]) -> RunConfig:
    """Read the settings of a run from `[CONFIG.json] [--key value …]`.

    Raises:
        ValueError: unknown keys, wrong types or values; the message names key, value and remedy.
        OSError: CONFIG.json can't be read.
    """
    values, flags, label = split_config(words)
    return run_of(values, label, flags)


def run_of(values: Mapping[str, Any], label: str, flags: Sequence[str] = ()) -> RunConfig:
    """Make the settings of a run from values and flags at hand; messages begin with `label`, as [`parse_run`]."""
    method, kind = _method_and_kind(values, flags)
    if isinstance(kind, StudentKind) and isinstance(student := values.get("student"), dict | list):
        values = {**values, "student": json.dumps(student)}
    # flags override the object, both override a recipe
    named = _parser(method, kind).given(flags, values, label)
    merged, recipe_values = named, dict[str, Any]()
    if (recipe := named.get("recipe")) is not None:
        recipes = getattr(trainer_named(method).arguments_class, "recipes", {})
        if recipe not in recipes:
            choices = f"its recipes: {', '.join(recipes)}" if recipes else "it has none; leave it out"
            raise ValueError(f"recipe={short_repr(recipe)} is no recipe of method={method!r}; {choices}")
        recipe_values = recipes[recipe]
        merged = with_recipe(recipe_values, named)
    if named.get("eval_steps") is not None and "eval_strategy" not in merged:  # Trainer alone would never come to them
        merged = merged | {"eval_strategy": "steps"}
    if not merged.get("output_dir"):
        raise ValueError("output_dir is not set; name a folder in CONFIG or as --output_dir runs/my-student")
    # what makes this run: values that are no defaults, or whose default another kind of run or the recipe changes
    given = differing(merged, *kind.settings_classes(method))
    given |= {name: named[name] for name in (*_COUNT_WHEN_NAMED, *recipe_values) if name in named}
    # none of how it is started, and no access token, which is a secret
    given = {name: given[name] for name in given if name not in SETTINGS_OF_ONE_CALL and not name.endswith("token")}
    if "method" in merged:  # also where it is the default: another method may be found for the same teacher
        given["method"] = method
    return _with_members(method, kind, merged | {"method": method}, given)


def help_of(words: Sequence[str]) -> str:
    """Describe every setting of the run that the words of [`parse_run`] name; without words, of any."""
    values, flags, _ = split_config(words)
    method, kind = _method_and_kind(values, flags, asks_hub=False)
    kinds = kind.settings_classes(method)
    refused = {name for one in kinds for name in getattr(one, "no_part", ())} | UNSUPPORTED.keys()
    refused |= {*kind.unused} if words else set()
    return _parser(method, kind, shown_names=setting_types(*kinds).keys() - refused).format_help()


def _parser(method: str, kind: Kind, **options: Any) -> SettingsParser:
    command = "homodistil distill"
    options |= {"usage": f"{command} [CONFIG.json] [--key value …]", "manual": f"{command} --help_all"}
    return SettingsParser(command, *kind.settings_classes(method), takes_config=True, **options)


def _method_and_kind(values: Mapping[str, Any], flags: Sequence[str], *, asks_hub: bool = True) -> tuple[str, Kind]:
    """The named method, else the one that the teacher and the rows are for; and its kind of run."""
    named = {name: without_tilde(value) for name, value in (*values.items(), *_words_of(flags).items())}
    teacher, default = named.get("teacher"), str(RunArguments.__dataclass_fields__["method"].default)
    is_here = isinstance(teacher, str) and Path(teacher).is_dir()
    method = named.get("method")
    # the default is no choice: teacher and rows may be those of another method
    if method in (None, default):
        asked = teacher if is_here or (asks_hub and isinstance(teacher, str)) else ""
        method = method_for(str(asked), named) or default
    return method, run_kind_for(method, teacher if is_here else None)


def _words_of(flags: Sequence[str]) -> dict[str, Any]:
    """Name of each flag → the word behind it, or None; of those that take several all words. They are unchecked."""
    words: dict[str, list[str]] = {}
    name = ""
    for word in flags:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            name = key.replace("-", "_")
            words[name] = [value] if equals else []
        elif name:
            words[name].append(word)
    return {name: some if name in _OF_ROWS else next(iter(some), None) for name, some in words.items()}


def _with_members(method: str, kind: Kind, values: Mapping[str, Any], given: dict[str, Any]) -> RunConfig:
    """Make the dataclasses of checked values; those of each member, too, where `student` is a list."""
    students = listed_students(values.get("student")) if isinstance(kind, StudentKind) else None
    if students is None:
        return _built(method, kind, values, given)
    if values.get("nested"):  # one run, of one student
        return _built(method, kind, values, given | {"student": students})
    # the chain has no widths of its own, its members have
    whole = _built(method, kind, {**values, "student": None}, given | {"student": students})
    members = []
    for number, student in enumerate(students, start=1):
        folder = str(Path(values["output_dir"]) / member_folder(number, student))
        changes = {"student": student, "output_dir": folder}
        if values.get("push_to_hub"):  # each to a repository of its own
            name = values.get("hub_model_id") or Path(values["output_dir"]).absolute().name
            changes["hub_model_id"] = f"{name}-{Path(folder).name}"
        # resuming and overwriting are done for all members together
        together = {"resume_from_checkpoint": None, "overwrite_output_dir": True}
        members.append(_built(method, kind, {**values, **changes, **together}, given | changes))
    return replace(whole, members=tuple(members))


def _built(method: str, kind: Kind, values: Mapping[str, Any], given: dict[str, Any]) -> RunConfig:
    run, *training = (build(settings, values) for settings in kind.settings_classes(method))
    kind.check(run, *training)
    return RunConfig(run, training[0] if training else None, given)
