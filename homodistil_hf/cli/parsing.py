"""What all commands share: the parser whose errors are exceptions, log lines on the terminal."""

import argparse
import logging
import sys
from collections.abc import Callable
from typing import Any, NoReturn

Command = Callable[[argparse.Namespace], int]
"""Flags → exit status."""


class CommandParser(argparse.ArgumentParser):
    """Errors are raised, so that all of them look alike."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing and leaving.

        Args:
            message: what is wrong with the flags.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{message[:1000]}; see {self.prog} --help")


def add_command(commands: Any, name: str, run: Command, *, help: str, example: str) -> CommandParser:
    """Add a command.

    Args:
        commands: what `add_subparsers` made.
        name: of the command.
        run: what it does.
        help: one line, lower case.
        example: shown below the flags.

    Returns:
        [`CommandParser`] of the command.
    """
    parser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(command=run)
    return parser


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
