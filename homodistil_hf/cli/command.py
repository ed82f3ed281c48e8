"""The base of all commands: it reads their words and prints their lines."""

import gc
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar

from ..files.flags import SettingsParser
from ..files.folders import write_text
from ..files.settings import build, checked_values, setting_types, split_config

HELP_ALL = "--help_all"
"""The flag that has a command describe every setting."""


@dataclass
class Command:
    """A command: the docstring is its help, a field of its dataclass is a flag of it, see `files/settings.py`."""

    example: ClassVar[str]
    usage: ClassVar[str | None] = None
    """The first line of the help; None: all flags."""
    main_settings: ClassVar[tuple[str, ...]] = ()
    """Settings of the package that the help describes; it names the others, which `--help_all` describes."""

    @classmethod
    def main(cls, name: str, words: Sequence[str]) -> int:
        """Run the command of a name with the words behind it, and return the exit status."""
        parser = SettingsParser(
            f"homodistil {name}", cls, usage=cls.usage, description=cls.__doc__, epilog=f"example: {cls.example}"
        )
        return build(cls, parser.given(words)).run()

    def run(self) -> int:
        """Do it, and return the exit status."""
        raise NotImplementedError


@dataclass
class SettingsCommand(Command):
    """A command whose flags are settings of the package as well, over a JSON file of settings where one is given."""

    settings: ClassVar[str]
    """Module and name of the dataclass of the settings, imported when the command runs."""

    @classmethod
    def main(cls, name: str, words: Sequence[str]) -> int:
        """Also read `[CONFIG.json]`, the first word, and hand the settings on."""
        kind = resolve_name(cls.settings)
        usage = f"homodistil {name} [CONFIG.json] [--key value …]"
        parser = settings_parser(name, cls, kind, words=words, usage=usage, takes_config=True)
        if parser is None:
            return 0
        values, flags, label = split_config(words)
        given = parser.given(flags, checked_values(values, setting_types(kind), label), label)
        show_logs()
        return build(cls, given).run_with(build(kind, given), given)

    def run_with(self, settings: Any, given: Mapping[str, Any]) -> int:
        """Do it, and return the exit status; `given` are the values that were named, also those that are defaults."""
        raise NotImplementedError


def settings_parser(
    name: str, command: type[Command], *kinds: Any, words: Sequence[str], notes: str = "", **texts: Any
) -> SettingsParser | None:
    """The parser of a command's flags and settings; None where `--help_all` had it print all of them.

    Args:
        name: of the command.
        command: its flags, and the settings that its help describes.
        kinds: dataclasses of the settings.
        words: those behind the command's name.
        notes: lines for the end of the help.
        texts: further arguments of [`SettingsParser`].
    """
    known = dict.fromkeys(entry.name for kind in kinds for entry in fields(kind))
    rare = " ".join(f"--{entry}" for entry in known if entry not in command.main_settings)
    epilog = f"example: {command.example}{notes}"
    shown = None
    if HELP_ALL not in words:
        shown = (*(entry.name for entry in fields(command)), *command.main_settings)
        epilog += f"\nfurther settings (homodistil {name} {HELP_ALL}): {rare}"
    texts |= {"description": command.__doc__, "epilog": epilog}
    parser = SettingsParser(f"homodistil {name}", command, *kinds, shown_names=shown, **texts)
    if HELP_ALL in words:
        print(parser.format_help())
        return None
    return parser


def collect_again() -> None:
    """Collect garbage once a command has imported what it needs, but not in that: `main` turns it off before."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def show_logs(is_main_process: bool = True) -> None:
    """Let the package's log lines appear on standard error, as a command's work begins, and [`collect_again`].

    Other processes are silent below warnings.
    """
    from transformers.utils.logging import disable_progress_bar

    collect_again()
    disable_progress_bar()  # those of reading and writing weights; training and tokenizing keep theirs
    logger = logging.getLogger("homodistil_hf")
    logger.setLevel(logging.INFO if is_main_process else logging.WARNING)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("homodistil: %(message)s"))
        logger.addHandler(handler)


def write_output(file: str, text: str) -> None:
    """Write the file that a user named for results, in a folder that is made where there is none."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    write_text(Path(file), text)


def log_progress(line: str) -> None:
    """Print a line about the progress on standard error."""
    print(f"homodistil: {line}", file=sys.stderr)
