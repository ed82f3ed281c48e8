"""Writes docs/settings.md: every command and setting, from the help texts that `--help_all` shows.

python docs/settings.py
"""

from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from transformers import TrainingArguments

from homodistil_hf.cli import COMMANDS, command_named
from homodistil_hf.cli.command import SettingsCommand
from homodistil_hf.cli.evaluate import evaluations
from homodistil_hf.files.settings import help_of
from homodistil_hf.homodistil_args import HomoDistilTrainingArguments
from homodistil_hf.runs.kinds import METHODS, run_kind_for, trainer_named
from homodistil_hf.runs.settings import RunArguments
from homodistil_hf.tables import markdown_table

PAGE = Path("docs/settings.md")
OF_TRAINER: dict[str, "Field[Any]"] = {entry.name: entry for entry in fields(TrainingArguments)}
HEADER = """# Commands and settings

Written from the help texts of the package, which `homodistil COMMAND --help_all` shows as well. A setting is a flag, a
key of the JSON file, and an argument in Python. Runs of `distill` also take every one of
[`TrainingArguments`](https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments).
"""


def page_text() -> str:
    """The whole page."""
    return "\n".join([HEADER, *commands(), *methods()]).rstrip() + "\n"


def commands() -> Iterator[str]:
    """A section a command."""
    for name in COMMANDS:
        command = command_named(name)
        kinds: list[Any] = [command]
        if name == "distill":
            kinds.append(RunArguments)
        elif name == "evaluate":
            kinds += [kind.settings for kind in evaluations().values()]
        elif issubclass(command, SettingsCommand):
            kinds.append(resolve_name(command.settings))
        first_line = " ".join((command.__doc__ or "").split())
        yield f"## {name}\n\n{first_line}\n"
        yield from table(entry for kind in kinds for entry in fields(kind))


def methods() -> Iterator[str]:
    """HomoDistil's settings, then what each other method's run and trainer add to them or change."""
    known = dict(OF_TRAINER)
    shared = HomoDistilTrainingArguments
    yield "## Training: homodistil\n\nFor every method, but for what its own section says.\n"
    yield from table(changed(shared, known))
    known = {entry.name: entry for kind in (RunArguments, shared) for entry in fields(kind)}
    for name in METHODS:
        if name != "homodistil":
            yield f"## Training: {name}\n"
            kinds = (*run_kind_for(name).settings_classes(name), trainer_named(name).arguments_class)
            found = [entry for kind in kinds for entry in changed(kind, known)]
            yield from table(found) or ["No settings of its own.\n"]


def changed(kind: Any, known: dict[str, "Field[Any]"]) -> Iterator["Field[Any]"]:
    """The settings of a class that these don't have, or not with the same default and help; new ones come first."""
    for entry in sorted(fields(kind), key=lambda one: one.name in OF_TRAINER):
        other = known.get(entry.name)
        is_same = other and (other.default, help_of(other)) == (entry.default, help_of(entry))
        if entry.init and not is_same and help_of(entry) and entry.name not in getattr(kind, "no_part", {}):
            yield entry


def table(entries: Iterable["Field[Any]"]) -> list[str]:
    """Rows of settings, the first of a name; empty where there is none."""
    found = {entry.name: entry for entry in reversed(list(entries))}
    rows = [(f"`{name}`", default_of(entry), text_of(entry)) for name, entry in reversed(found.items())]
    return [*markdown_table(("setting", "default", ""), rows), ""] if rows else []


def default_of(entry: "Field[Any]") -> str:
    """A default as JSON has it; nothing where there is none."""
    if entry.default in (None, MISSING, ""):
        return ""
    return cell(f"`{entry.default}`")


def text_of(entry: "Field[Any]") -> str:
    """The help of a setting that is the package's."""
    other = OF_TRAINER.get(entry.name)
    return "As in `TrainingArguments`." if other and help_of(other) == help_of(entry) else cell(help_of(entry))


def cell(text: str) -> str:
    """Text that does not end a table's cell."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page_text(), encoding="utf-8")
