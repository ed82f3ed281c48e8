"""A JSON file and flags → the settings of one run, checked key by key before anything else happens.

The JSON holds the fields of [`HomoDistilTrainingArguments`] and of [`RunArguments`]; flags have the same names and
override it. What is done with the settings is told elsewhere.
"""

import json
import types
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from transformers import HfArgumentParser, TrainingArguments

from ..files.messages import nearest_name, short_repr
from ..files.strict_json import parse_json, read_json_object
from ..methods.embedding.model import kind_of_texts
from ..methods.registry import TEXT_METHODS, check_method_settings, method_named
from ..methods.self_distillation.trainer import SELF_DISTILLATION, SelfDistillationArguments
from ..plans.family import member_folder
from ..training_args import HomoDistilTrainingArguments

_LONGEST_MESSAGE = 1000
# What a JSON value may be beyond the field's own type; `_plain` turns it into that.
_ALSO_ACCEPTED: dict[str, type | tuple[type, ...]] = {
    "student": (dict, list),
    "train_data": str,
    "eval_data": str,
}


@dataclass
class RunArguments:
    """Where teacher and text of a run come from; everything else is in [`HomoDistilTrainingArguments`]."""

    teacher: str = field(default="", metadata={"help": "Masked-LM teacher: Hub name or folder."})
    method: str = field(
        default="homodistil",
        metadata={
            "help": "homodistil, a baseline (one_shot, scratch, …), self_distillation, bit; embedding and "
            "reranker are found by the teacher's folder."
        },
    )
    method_settings: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "JSON object with settings of the method's own; homodistil has none."}
    )
    own_settings: dict[str, Any] = field(init=False)
    further_pretraining: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "JSON object with settings of self_distillation, which the teacher first goes through."},
    )
    further_settings: dict[str, Any] = field(init=False)
    vocabulary: str | None = field(
        default=None,
        metadata={"help": "Trim the teacher's vocabulary first: keep=16384, min_count=5, or a file of tokens."},
    )
    teacher_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the teacher on the Hub."}
    )
    tokenizer: str | None = field(default=None, metadata={"help": "Hub name or folder; default: the teacher's own."})
    train_data: list[str] = field(
        default_factory=list,
        metadata={"help": "Files (.parquet, .json, .jsonl, .txt), folders, globs or Hub data sets with the text."},
    )
    eval_data: list[str] = field(
        default_factory=list,
        metadata={"help": "Like train_data, for evaluation; default: a part of train_data is held out."},
    )
    text_column: str | None = field(
        default=None, metadata={"help": "Column with the text; default: text, or the only column of strings."}
    )
    train_split: str = field(default="train", metadata={"help": "Split of a Hub data set or folder to train on."})
    eval_split: str = field(default="validation", metadata={"help": "Split of eval_data to evaluate on."})
    train_prompts: list[str] = field(
        default_factory=list,
        metadata={"help": "Embedding models: of each of train_data the name of its prompt, or an empty one for none."},
    )
    train_weights: list[float] = field(
        default_factory=list,
        metadata={"help": "Models of texts: passes over each of train_data in an epoch, > 0; default: one each."},
    )
    max_seq_length: int = field(
        default=128, metadata={"help": "Tokens a block, special ones included; 8 … the teacher's positions."}
    )
    max_eval_blocks: int = field(default=1024, metadata={"help": "Evaluate on at most so many blocks, ≥ 1."})
    streaming: bool = field(
        default=False, metadata={"help": "Read and tokenize train_data while training; needs max_steps."}
    )
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Processes that tokenize, ≥ 1; default: one, whose tokenizer uses all cores."}
    )

    def __post_init__(self) -> None:
        for name, example in (("teacher", "google-bert/bert-base-uncased"), ("train_data", "corpus/*.parquet")):
            if not getattr(self, name):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not set; name one in CONFIG or as --{name} {example}"
                )
        for name in ("max_eval_blocks", "preprocessing_num_workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is too small; nearest valid: 1")
        self.own_settings = self._object("method_settings", '{"temperature": 2.0}')
        self.further_settings = self._object("further_pretraining", '{"num_train_epochs": 10}')
        if self.method == "homodistil":
            self.method = kind_of_texts(self.teacher) or self.method
        self._check_method()
        self._check_sources()

    def _check_sources(self) -> None:
        readers = {"train_prompts": ("embedding",), "train_weights": TEXT_METHODS}
        for name, methods in readers.items():
            given, num_sources = getattr(self, name), len(self.train_data)
            if given and self.method not in methods:
                raise ValueError(f"{name}={short_repr(given)} has no place with method={self.method!r}; leave it out")
            if given and len(given) != num_sources:
                raise ValueError(
                    f"{name}={short_repr(given)} has {len(given)} entries for {num_sources} of train_data"
                )
        if any(not weight > 0 for weight in self.train_weights):
            raise ValueError(
                f"train_weights={short_repr(self.train_weights)}: expected numbers > 0; leave sources out"
            )

    def _check_method(self) -> None:
        if self.method != SELF_DISTILLATION:
            check_method_settings(method_named(self.method, has_texts=True), self.own_settings)
            return
        for name in ("method_settings", "further_pretraining", "vocabulary"):
            if value := getattr(self, name):
                raise ValueError(
                    f"{name}={short_repr(value)} has no place with method={self.method!r}, whose settings stand "
                    "beside it"
                )

    def _object(self, name: str, example: str) -> dict[str, Any]:
        given = getattr(self, name)
        values = parse_json(given or "{}", name) if isinstance(given, str | None) else given
        if not isinstance(values, dict):
            raise ValueError(f"{name}={short_repr(given)} is no JSON object; expected such as {example}")
        return values


@dataclass(frozen=True)
class RunConfig:
    """All settings of one run.

    Args:
        run: where teacher and text come from.
        training: everything about the training.
        given: name → plain value of each setting that differs from its default; as JSON it is a config of this run.
        members: where `student` is a list, the runs that it stands for, each with a folder in `output_dir`.
    """

    run: RunArguments
    training: HomoDistilTrainingArguments
    given: dict[str, Any]
    members: tuple["RunConfig", ...] = ()


@dataclass(frozen=True)
class FurtherConfig:
    """All settings of one run of self-distillation; fields as in [`RunConfig`]."""

    run: RunArguments
    training: SelfDistillationArguments
    given: dict[str, Any]


class RunParser(HfArgumentParser):
    """Flags of [`RunArguments`] and of a method's; errors are raised, not printed with a screenful of usage."""

    def __init__(self, training: type[TrainingArguments] = HomoDistilTrainingArguments, **kwargs: Any):
        super().__init__([RunArguments, training], allow_abbrev=False, add_help=False, prog="", **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting; argparse's message names the argument and the value."""
        raise ValueError(f"{shortened(message)}; see homodistil distill --help_all")


def parse_run(arguments: Sequence[str]) -> RunConfig:
    """Read the settings of a run from `[CONFIG.json] [--key value …]`.

    Raises:
        ValueError: unknown keys, wrong types or values; the message names key, value and remedy.
        OSError: CONFIG.json can't be read.
    """
    flags = list(arguments)
    values = read_config(flags.pop(0)) if flags and not flags[0].startswith("-") else {}
    return _run_of(values, flags)


def run_of(values: Mapping[str, Any], label: str) -> RunConfig:
    """Make the settings of a run from values at hand; messages begin with `label`, errors as [`parse_run`]."""
    return _run_of(checked_values(values, label), [])


def method_in(arguments: Sequence[str]) -> Any:
    """The method that `[CONFIG.json] [--key value …]` names, checked by nobody yet; None where it names none."""
    flags = list(arguments)
    path = flags.pop(0) if flags and not flags[0].startswith("-") else None
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--method", nargs="?")
    named = parser.parse_known_args(flags)[0].method
    return named or (read_json_object(path, f"config={path!r}").get("method") if path else None)


def parse_further(arguments: Sequence[str]) -> FurtherConfig:
    """Read the settings of a run of self-distillation; as [`parse_run`]."""
    flags = list(arguments)
    path = flags.pop(0) if flags and not flags[0].startswith("-") else None
    label = f"config={path!r}"
    return further_of(read_json_object(path, label) if path else {}, label, flags)


def further_of(values: Mapping[str, Any], label: str, flags: Sequence[str] = ()) -> FurtherConfig:
    """Make the settings of a run of self-distillation from values at hand; as [`run_of`]."""
    parser = RunParser(SelfDistillationArguments)
    namespace, given = _parsed(parser, checked_values(values, label, SelfDistillationArguments), flags)
    return FurtherConfig(*_checked(parser, vars(namespace)), given)


def _parsed(parser: RunParser, values: Mapping[str, Any], flags: Sequence[str]) -> tuple[Namespace, dict[str, Any]]:
    """All settings, and those that differ from their defaults and belong to the run."""
    defaults = vars(parser.parse_args([]))
    parser.set_defaults(**values)
    namespace, unknown = parser.parse_known_args(flags)
    if unknown:
        raise _unknown_argument(unknown[0])
    given = {name: value for name, value in vars(namespace).items() if value != defaults[name]}
    if "output_dir" not in given:
        raise ValueError("output_dir is not set; name a folder in CONFIG or as --output_dir runs/my-student")
    return namespace, {name: value for name, value in given.items() if _belongs_to_the_run(name)}


def _run_of(values: Mapping[str, Any], flags: Sequence[str]) -> RunConfig:
    parser = RunParser()
    namespace, given = _parsed(parser, values, flags)
    if namespace.method == SELF_DISTILLATION:
        raise ValueError(f"method={SELF_DISTILLATION!r} makes no student; run it by itself: homodistil distill CONFIG")
    if (students := _listed_students(namespace.student)) is None:
        return RunConfig(*_checked(parser, vars(namespace)), given)
    whole = RunConfig(*_checked(parser, vars(namespace) | {"student": None}), given | {"student": students})
    members = []
    for number, student in enumerate(students, start=1):
        folder = str(Path(namespace.output_dir) / member_folder(number, student))
        # Resuming, overwriting and pushing are the family's business.
        own = {"student": student, "output_dir": folder}
        others = {"resume_from_checkpoint": None, "overwrite_output_dir": True, "push_to_hub": False}
        members.append(RunConfig(*_checked(parser, vars(namespace) | own | others), given | own))
    return replace(whole, members=tuple(members))


def _listed_students(student: str | None) -> list[str] | None:
    """The members of a family, each as text; None where `student` names one model."""
    if student is None or not student.lstrip().startswith("["):
        return None
    plans = parse_json(student, "student")
    texts = [json.dumps(plan) if isinstance(plan, dict) else plan for plan in plans]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(
            f'student={short_repr(plans)} is no list of students; expected such as ["macs=0.5", "macs=0.25"], from '
            "wide to "
            "narrow"
        )
    return texts


def _checked(parser: RunParser, values: dict[str, Any]) -> tuple[RunArguments, Any]:
    try:
        run, training = parser.parse_dict(values)
    except (ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError) as error:
        # What TrainingArguments makes of values that it does not expect.
        raise ValueError(f"the settings can't be used ({type(error).__name__}: {shortened(str(error))})") from error
    except ValueError as error:
        raise ValueError(shortened(str(error))) from error
    return run, training


def read_config(path: str) -> dict[str, Any]:
    """Read a JSON config and check its keys and the types of its values; ready for the parser."""
    label = f"config={path!r}"
    return checked_values(read_json_object(path, label), label)


def checked_values(
    values: Mapping[str, Any], label: str, training: type[TrainingArguments] = HomoDistilTrainingArguments
) -> dict[str, Any]:
    """Check keys and types of settings, name → JSON value; messages begin with `label`, what the user calls them."""
    hints = field_types(training)
    for name, value in values.items():
        if name not in hints:
            raise ValueError(
                f"{label} has the unknown key {short_repr(name)} (value {_told(name, value)}); "
                f"nearest valid: {nearest_name(name, hints)!r}"
            )
        if not _accepts(hints[name], value) and not isinstance(value, _ALSO_ACCEPTED.get(name, ())):
            raise ValueError(
                f"{label} has {name}={_told(name, value)}, of the JSON type {_json_type(value)}; "
                f"expected {_expected(hints[name])}"
            )
    return {name: _plain(name, value) for name, value in values.items()}


def shortened(message: str) -> str:
    """Cut a message that repeats a very long value of the user's; its end stays."""
    if len(message) <= _LONGEST_MESSAGE:
        return message
    return f"{message[: _LONGEST_MESSAGE // 2]} … {message[-_LONGEST_MESSAGE // 2 :]}"


def _told(name: str, value: Any) -> str:
    # What is meant for hub_token is a secret even if the key is misspelt or the value of another type.
    return "<token>" if "tok" in name.lower() and name != "tokenizer" else short_repr(value)


def _belongs_to_the_run(name: str) -> bool:
    # An access token is a secret, and whether a run was interrupted is not one of its settings.
    return not name.endswith("token") and name not in ("resume_from_checkpoint", "overwrite_output_dir")


def field_types(training: type[TrainingArguments] = HomoDistilTrainingArguments) -> dict[str, Any]:
    """Every setting of a run, and its type hint."""
    types_by_name: dict[str, Any] = {}
    for settings in (RunArguments, training):
        hints = get_type_hints(settings)
        types_by_name |= {entry.name: hints[entry.name] for entry in fields(settings) if entry.init}
    return types_by_name


def _accepts(hint: Any, value: Any) -> bool:
    """Whether a JSON value is of a type; a whole number may stand for a fraction, a boolean for neither."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_accepts(option, value) for option in _options(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin is not None:
        items = get_args(hint) if origin is list else ()
        return isinstance(value, origin) and all(_accepts(item, entry) for item in items for entry in value)
    if isinstance(value, bool):
        return hint in (bool, Any)
    if _is_enum(hint):
        return value in [option.value for option in hint]
    return hint is Any or isinstance(value, (int, float) if hint is float else hint)


def _expected(hint: Any) -> str:
    options = _options(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return " or ".join(dict.fromkeys(_expected_one(option) for option in options))


def _options(union: Any) -> tuple[Any, ...]:
    """Its members; beside an enumeration `str` only says how its values are written."""
    options = get_args(union)
    return tuple(option for option in options if option is not str or not any(map(_is_enum, options)))


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def _expected_one(hint: Any) -> str:
    if get_origin(hint) is list:
        return f"a list, each item {_expected(get_args(hint)[0])}"
    names = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    if _is_enum(hint):
        return f"one of {', '.join(repr(option.value) for option in hint)}"
    return names.get(hint) or ("a list" if hint is list else "an object")


def _json_type(value: Any) -> str:
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _plain(name: str, value: Any) -> Any:
    if name == "student" and isinstance(value, dict | list):
        return json.dumps(value)
    return [value] if name in ("train_data", "eval_data") and isinstance(value, str) else value


def _unknown_argument(argument: str) -> ValueError:
    if not argument.startswith("--"):
        return ValueError(
            f"unexpected argument {short_repr(argument)}; expected CONFIG.json first, then --key value …"
        )
    name = argument.removeprefix("--").partition("=")[0].replace("-", "_")
    return ValueError(
        f"unknown key {shortened(argument.partition('=')[0])}; nearest valid: --{nearest_name(name, field_types())}"
    )
