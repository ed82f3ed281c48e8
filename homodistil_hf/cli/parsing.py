"""Words after `homodistil COMMAND` → the dataclass of its flags; log lines on the terminal. No command itself."""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar, NoReturn, Protocol

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from ..files.messages import nearest_name, shown

_LONGEST_MESSAGE = 1000


class Command(Protocol):
    """A dataclass: a field a flag, the docstring its help, and what to do with them.

    A field's metadata are arguments of `add_argument`; with `positional=True` it is a word without `--`.
    """

    example: ClassVar[str]

    def run(self) -> int:
        """Do it, and return the exit status."""


class CommandParser(HfArgumentParser):
    """Flags of dataclasses; errors are raised, so that all of them look alike."""

    def add_argument(self, *names: Any, positional: bool = False, **kwargs: Any) -> argparse.Action:
        """Add a flag: on or off without a word behind it, under one spelling, or a positional word.

        Args:
            *names: of the flag.
            positional: whether it is a word without `--`.
            **kwargs: those of argparse.

        Returns:
            `argparse.Action`.
        """
        if kwargs.get("type") is string_to_bool:
            kwargs = {"action": "store_true", "help": kwargs["help"]}
        if positional:
            kwargs.pop("required", None)
        spelled = [name.removeprefix("--" * positional) for name in names if "-" not in name[2:]]
        return super().add_argument(*spelled, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing and leaving.

        Args:
            message: what is wrong with the flags.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{message[:_LONGEST_MESSAGE]}; see {self.prog} --help")


def parse(
    name: str, words: Sequence[str], command: Any, *more: type, epilog: str = "", **kwargs: Any
) -> tuple[Any, ...]:
    """Read a command's flags.

    Args:
        name: of the command.
        words: behind it.
        command: its dataclass, with the docstring and the `example` of a [`Command`].
        *more: further dataclasses whose fields are flags.
        epilog: shown in the help below the example.
        **kwargs: those of `ArgumentParser`.

    Returns:
        `tuple`: one object a dataclass.

    Raises:
        ValueError: an unknown flag, with the nearest valid one, or a value that is wrong.
    """
    kinds = (command, *more)
    parser = CommandParser(
        kinds,
        prog=f"homodistil {name}",
        description=command.__doc__,
        epilog=f"example: {command.example}{epilog}",
        allow_abbrev=False,
        **{"formatter_class": argparse.RawDescriptionHelpFormatter, **kwargs},
    )
    *found, unknown = parser.parse_args_into_dataclasses(
        list(words), return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        entries = [entry for kind in kinds for entry in fields(kind) if not entry.metadata.get("positional")]
        flags = ["--help", *(f"--{entry.name}" for entry in entries)]
        hint = f"; nearest valid: {nearest_name(unknown[0].partition('=')[0], flags)}" * unknown[0].startswith("-")
        parser.error(f"unrecognized arguments: {shown(' '.join(unknown))}{hint}")
    return tuple(found)


def show_logs(is_main_process: bool = True) -> None:
    """Let the package's log lines appear on standard error.

    Args:
        is_main_process: others are silent below warnings.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # those of reading and writing weights; training and tokenizing keep theirs
    logger = logging.getLogger("homodistil_hf")
    logger.setLevel(logging.INFO if is_main_process else logging.WARNING)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("homodistil: %(message)s"))
        logger.addHandler(handler)


def tell(line: str) -> None:
    """Print a line about the progress on standard error.

    Args:
        line: for the user.
    """
    print(f"homodistil: {line}", file=sys.stderr)
