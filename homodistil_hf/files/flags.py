"""The words of a command: flags of settings, over a JSON object with the same names."""

import argparse
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import partial
from typing import Any, Literal, NoReturn, get_args, get_origin

from .messages import near_name, short_repr, shortened
from .settings import checked_values, help_and_default, is_enum, options_of, setting_types

_TRUTHS = dict.fromkeys(("true", "t", "yes", "y", "1"), True) | dict.fromkeys(("false", "f", "no", "n", "0"), False)
_OF_MODELS = {"model", "teacher", "folder", "folders"}
"""Names by which users look for the model of a command that takes it first, without a key."""


class SettingsParser(argparse.ArgumentParser):
    """Flags of dataclasses, over a JSON object with the same names; errors are raised, so that all of them look alike.

    Args:
        prog: words of the command.
        kinds: the dataclasses.
        shown_names: fields that the help describes; default: all.
        manual: where flags are described; default: the help of the command.
        takes_config: whether [`split_config`] takes a file from the words first, for messages.
        options: as in `ArgumentParser`.
    """

    def __init__(
        self,
        prog: str,
        *kinds: Any,
        shown_names: Collection[str] | None = None,
        manual: str | None = None,
        takes_config: bool = False,
        **options: Any,
    ):
        super().__init__(
            prog=prog,
            allow_abbrev=False,
            **{"formatter_class": partial(argparse.RawDescriptionHelpFormatter, max_help_position=32), **options},
        )
        self.manual = manual or f"{prog} --help"
        self.takes_config = takes_config
        self.hints = setting_types(*kinds)
        entries = [entry for kind in kinds for entry in fields(kind)]
        for name, hint in self.hints.items():
            entry = next(entry for entry in entries if entry.name == name)
            metadata = entry.metadata
            # a value that isn't given is left to the dataclass
            argument: dict[str, Any] = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
            if shown_names is None or name in shown_names:
                argument["help"] = help_and_default(entry)
            if "action" in metadata:
                argument["action"] = metadata["action"]
            else:
                argument |= {"metavar": "X", **_flag_options(hint)}
                argument |= {key: metadata[key] for key in ("metavar", "nargs") if key in metadata}
            if metadata.get("positional"):
                self.add_argument(name, **argument)
                continue
            argument["required"] = entry.default is MISSING and entry.default_factory is MISSING
            self.add_argument(f"--{name}", **argument)
            # what is on by default is turned off by --no_flag as well as by --flag false
            if argument.get("type") is _truth and entry.default is True:
                off: dict[str, Any] = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
                self.add_argument(f"--no_{name}", dest=name, action="store_false", **off)

    def error(self, message: str) -> NoReturn:
        """Raise a ValueError of what is wrong with the words."""
        raise ValueError(f"{shortened(message)}; see {self.manual}")

    def given(
        self, words: Sequence[str], values: Mapping[str, Any] | None = None, label: str = "the settings"
    ) -> dict[str, Any]:
        """Read flags, and check the values that they override.

        `label` is the name of the JSON object, `values`, in messages.

        Returns:
            Name → value of each setting that is given.

        Raises:
            ValueError: an unknown flag or key, with the nearest valid one, or a value that is wrong.
        """
        checked = checked_values(values or {}, self.hints, label)
        self._refuse_keys_of_first_words(words)
        spelled = []
        for word in words:
            name, equals, value = word.partition("=")
            key = f"--{name[2:].replace('-', '_')}"
            # a word that is no flag stays as it is: values may begin with dashes, too
            is_key = word.startswith("--") and key in self._option_string_actions
            spelled.append(f"{key}{equals}{value}" if is_key else word)
        namespace, unknown = self.parse_known_args(spelled)
        if unknown:
            self._refuse_unknown(unknown[0])
        return {name: without_tilde(value) for name, value in (checked | vars(namespace)).items()}

    def _refuse_keys_of_first_words(self, words: Sequence[str]) -> None:
        places = [action for action in self._actions if not action.option_strings]
        shown = ["CONFIG.json"] if self.takes_config else [str(action.metavar) for action in places]
        names = {"config"} if self.takes_config else {action.dest for action in places}
        # the names of a model are taken for each other, so any of them gets the hint
        names |= _OF_MODELS if names & _OF_MODELS else set()
        for key in (word.partition("=")[0] for word in words):
            name = key.removeprefix("--").replace("-", "_")
            if key.startswith("--") and name in names and f"--{name}" not in self._option_string_actions:
                self.error(f"unknown key {key}; what stands first has no key: {self.prog} {' '.join(shown)} …")

    def _refuse_unknown(self, word: str) -> NoReturn:
        if word.strip("-") == "":
            self.error(f"unexpected argument {word!r}; leave it out: every value stands behind its --key")
        if word.lower() in ("true", "false"):
            self.error(f"unexpected argument {word!r}; a key without VALUE in the help takes none: leave it out")
        if not word.startswith("-"):
            expected = "; expected CONFIG.json first, then --key value …" * self.takes_config
            self.error(f"unexpected argument {short_repr(word)}{expected}")
        name = shortened(word.partition("=")[0])
        keys = [key for key in self._option_string_actions if key not in ("-h", "--help")]
        nearest = near_name(name, keys)
        if name.split()[:1] == [nearest]:  # one word with blanks, or one that stands behind "--"
            self.error(f"{short_repr(word)} is no key by itself; write {nearest} VALUE, two words, with no -- before")
        self.error(f"unknown key {name}" + ("" if nearest is None else f"; nearest valid: {nearest}"))


def without_tilde(value: Any) -> Any:
    """A path below a home folder in full, as no shell expands `~` in JSON or in `--key=~/path`; else the value.

    Columns, splits and prompts may begin with `~`, too, but hardly have a `/` behind the name of a user.
    """
    if isinstance(value, list | tuple):
        return type(value)(map(without_tilde, value))
    return os.path.expanduser(value) if isinstance(value, str) and "/" in value else value


# Types of flags


def _flag_options(hint: Any) -> dict[str, Any]:
    """Arguments of `add_argument` for a type; of a union the option that any word can be read as."""
    options = [option for option in options_of(hint) if option is not type(None)]
    if enums := [option for option in options if is_enum(option)]:
        return {"choices": [member.value for member in enums[0]]}
    if str in options:
        return {"type": str}
    if bool in options:
        return {"type": _truth, "nargs": "?", "const": True, "metavar": "true|false"}
    (kind, *_) = options
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    if get_origin(kind) in (list, tuple):
        return {"type": get_args(kind)[0], "nargs": "+"}
    return {"type": kind if kind in (int, float) else json.loads}


def _truth(word: str) -> bool:
    if word.lower() not in _TRUTHS:
        raise argparse.ArgumentTypeError(f"{short_repr(word)} is neither true nor false")
    return _TRUTHS[word.lower()]
