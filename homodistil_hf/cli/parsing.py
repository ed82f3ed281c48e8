"""Words after `homodistil COMMAND` → the dataclass of its flags; log lines on the terminal. No command itself."""

import argparse
import logging
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import MISSING, Field, field, fields, make_dataclass
from types import NoneType
from typing import Any, ClassVar, NoReturn, Protocol, get_args, get_origin, get_type_hints

from ..files.messages import nearest_name, short_repr
from ..files.strict_json import read_json_object

_LONGEST_MESSAGE = 1000


class Command(Protocol):
    """A dataclass: a field a flag, the docstring its help, and what to do with them.

    A field's metadata are arguments of `add_argument`; with `positional=True` it is a word without `--`.
    """

    example: ClassVar[str]

    def run(self) -> int:
        """Do it, and return the exit status."""


def flag(text: str, default: Any = MISSING, **options: Any) -> Any:
    """A field of a command: its help, its default if it needn't be given, and more arguments of `add_argument`."""
    kind: Any = {"default_factory": list} if default == [] else {"default": default}
    return field(**kind, metadata={"help": text, **options})


class CommandParser(argparse.ArgumentParser):
    """Raises errors instead of printing and leaving, so that all of them look alike."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with the flags."""
        raise ValueError(f"{message[:_LONGEST_MESSAGE]}; see {self.prog} --help")


def parse(
    name: str, words: Sequence[str], command: Any, *more: type, epilog: str = "", **kwargs: Any
) -> tuple[Any, ...]:
    """Read a command's flags: one object of its dataclass, a [`Command`], and one of each further dataclass.

    Args:
        name: of the command.
        words: behind it.
        command: its dataclass, with the docstring and the `example` of a [`Command`].
        *more: further dataclasses whose fields are flags.
        epilog: shown in the help below the example.
        **kwargs: those of `ArgumentParser`.

    Raises:
        ValueError: an unknown flag, with the nearest valid one, or a value that is wrong.
    """
    parser = CommandParser(
        prog=f"homodistil {name}",
        description=command.__doc__,
        epilog=f"example: {command.example}{epilog}",
        allow_abbrev=False,
        **{"formatter_class": argparse.RawDescriptionHelpFormatter, **kwargs},
    )
    entries = {kind: fields(kind) for kind in (command, *more)}
    for kind, flags in entries.items():
        hints = get_type_hints(kind)
        for entry in flags:
            _add_flag(parser, entry, hints[entry.name])
    given, unknown = parser.parse_known_args(list(words))
    if unknown:
        names = [entry.name for flags in entries.values() for entry in flags if not entry.metadata.get("positional")]
        spelled = ["--help", *(f"--{name}" for name in names)]
        hint = f"; nearest valid: {nearest_name(unknown[0].partition('=')[0], spelled)}" * unknown[0].startswith("-")
        parser.error(f"unrecognized arguments: {short_repr(' '.join(unknown))}{hint}")
    return tuple(
        kind(**{entry.name: getattr(given, entry.name) for entry in flags if entry.name in given})
        for kind, flags in entries.items()
    )


def settings_flags(kinds: Iterable[Any], shown_names: Collection[str]) -> type:
    """A dataclass of all fields of settings, None where one isn't given; the first kind that has it describes it.

    Args:
        kinds: dataclasses of settings, each field with a `help`.
        shown_names: those that the command's help shows.
    """
    found: dict[str, tuple[str, Any, Any]] = {}
    for kind in kinds:
        hints = get_type_hints(kind)
        for entry in fields(kind):
            told = entry.metadata["help"] if entry.name in shown_names else argparse.SUPPRESS
            hint = hints[entry.name]
            kind_of_value: Any = list[get_args(hint)[0]] if get_origin(hint) is tuple else hint  # type: ignore[misc]
            if kind_of_value is bool:
                kind_of_value = _truth
            found.setdefault(entry.name, (entry.name, kind_of_value, flag(told, default=None, metavar="X")))
    return make_dataclass("Settings", sorted(found.values(), key=lambda entry: entry[0]))


def _truth(word: str) -> bool:
    """`true` or `false`, as in JSON."""
    if word.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")
    return word.lower() == "true"


def parse_over_config(
    name: str, words: Sequence[str], command: type, kind: Any, *, shown_names: Collection[str], page: str
) -> tuple[Any, dict[str, Any]]:
    """Read a command's flags and its `config`, a JSON file of settings that flags override.

    Args:
        name: of the command.
        words: behind it.
        command: its dataclass, with the field `config`: a file, or None.
        kind: dataclass of the settings.
        shown_names: settings that the command's help describes; the others it names.
        page: of the documentation that describes those.

    Returns:
        The command's own flags, and the values of the settings that are given, by name.

    Raises:
        ValueError: as [`parse`]; a file that is no JSON object.
    """
    others = " ".join(f"--{entry.name}" for entry in fields(kind) if entry.name not in shown_names)
    epilog = f"\nfurther settings ({page}): {others}"
    flags, given = parse(name, words, command, settings_flags([kind], shown_names), epilog=epilog)
    values = read_json_object(flags.config, f"config={flags.config!r}") if flags.config else {}
    return flags, values | {name: value for name, value in vars(given).items() if value is not None}


def _add_flag(parser: CommandParser, entry: Field[Any], hint: Any) -> None:
    """Values that aren't given are left to the dataclass."""
    options: dict[str, Any] = {"default": argparse.SUPPRESS, **entry.metadata}
    is_positional = options.pop("positional", False)
    if NoneType in get_args(hint):
        (hint,) = (kind for kind in get_args(hint) if kind is not NoneType)
    if get_origin(hint) is list:
        options |= {"nargs": "+", "type": get_args(hint)[0]}
    else:
        options |= {"action": "store_true"} if hint is bool else {"type": hint}
    if not is_positional:
        options["required"] = entry.default is MISSING and entry.default_factory is MISSING
    parser.add_argument(entry.name if is_positional else f"--{entry.name}", **options)


def show_logs(is_main_process: bool = True) -> None:
    """Let the package's log lines appear on standard error; other processes are silent below warnings."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # those of reading and writing weights; training and tokenizing keep theirs
    logger = logging.getLogger("homodistil_hf")
    logger.setLevel(logging.INFO if is_main_process else logging.WARNING)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("homodistil: %(message)s"))
        logger.addHandler(handler)


def tell(line: str) -> None:
    """Print a line about the progress on standard error."""
    print(f"homodistil: {line}", file=sys.stderr)
