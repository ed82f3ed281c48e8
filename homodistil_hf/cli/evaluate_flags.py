"""The flags of `homodistil evaluate`, and what they ask for: evaluations, then one table.

`commands/evaluate.py` prints. What is measured and how is said in `discrepancy.py`, `glue.py` and `squad.py`, tables
in `comparison.py`; they are imported when the command runs.
"""

import argparse
import json
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..evaluation.held_out_settings import DiscrepancySettings
from ..evaluation.settings import GlueSettings
from ..evaluation.squad.settings import SquadSettings
from ..files.folders import write_text
from ..files.messages import nearest_name, shown

USAGE = "homodistil evaluate MODEL --task TASK … [--key value …]\n       homodistil evaluate --compare MODEL …"


_DISCREPANCY = "discrepancy"


_GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")


_SQUAD = ("squad", "squad_v2")


_KINDS: dict[str, tuple[tuple[str, ...], type]] = {
    _DISCREPANCY: ((_DISCREPANCY,), DiscrepancySettings),
    "glue": (_GLUE, GlueSettings),
    "squad": (_SQUAD, SquadSettings),
}


_GROUPS = {"glue": _GLUE, "all": (_DISCREPANCY, *_GLUE, *_SQUAD)}


_MAIN_SETTINGS = (
    "eval_data",
    "data_dir",
    "seeds",
    "learning_rate",
    "learning_rates",
    "num_train_epochs",
    "max_train_samples",
    "dtype",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags; settings that are rarely changed are only named.

    Args:
        parser: of the command.
    """
    parser.usage = USAGE
    parser.formatter_class = partial(argparse.RawDescriptionHelpFormatter, max_help_position=32)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="export, run, checkpoint-N, BERT folder or Hub name")
    parser.add_argument(
        "--task",
        nargs="+",
        default=[],
        metavar="TASK",
        help=f"{_DISCREPANCY}, {', '.join(_GLUE)}, glue, squad, squad_v2, all",
    )
    parser.add_argument("--teacher", help="for discrepancy (default: the recorded one) and for --compare")
    parser.add_argument("--output_dir", metavar="DIR", help="results (default: evaluations/NAME beside the model)")
    parser.add_argument("--compare", nargs="+", metavar="MODEL", help="one table of models evaluated before")
    parser.add_argument("--output", metavar="FILE", help="write the table, as .md or .json")
    settings = _flags()
    for name in sorted(settings, key=lambda name: (name not in _MAIN_SETTINGS, name)):
        text = settings[name].pop("help")
        help = text if name in _MAIN_SETTINGS else argparse.SUPPRESS
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=help, metavar="X", **settings[name])
    rare = " ".join(f"--{name}" for name in settings if name not in _MAIN_SETTINGS)
    parser.epilog = f"{parser.epilog}\nfurther settings (docs/evaluation.md): {rare}"


def run(flags: argparse.Namespace, say: Callable[[str], None]) -> str:
    """Evaluate, or compare what was evaluated.

    Args:
        flags: parsed.
        say: takes lines about the progress.

    Returns:
        `str`: the table.

    Raises:
        ValueError: flags that don't go together, an unknown task, or what the evaluations raise.
        OSError: a file or the Hub can't be read or written.
    """
    _check_output(flags.output)
    if flags.compare:
        if flags.model or flags.task:
            raise ValueError(
                f"--compare only reads results: drop MODEL={flags.model!r} and --task, or run it afterwards"
            )
        return _table(flags.compare, flags.teacher, flags.output)
    if not flags.model or not flags.task:
        raise ValueError(f"MODEL={flags.model!r}, --task={flags.task}: name both, or --compare MODEL …")
    chosen = _chosen(flags.task)
    settings = _settings(vars(flags), chosen)
    _evaluate(flags, chosen, settings, say)
    return _table([flags.output_dir or flags.model], None, flags.output)


def _evaluate(
    flags: argparse.Namespace,
    chosen: Mapping[str, Sequence[str]],
    settings: Mapping[str, Any],
    say: Callable[[str], None],
) -> None:
    if _DISCREPANCY in chosen:
        from ..evaluation.held_out_text import evaluate_discrepancy

        evaluate_discrepancy(
            flags.model,
            teacher=flags.teacher,
            settings=settings[_DISCREPANCY],
            output_dir=flags.output_dir,
            say=say,
        )
    if "glue" in chosen:
        from ..evaluation.glue.evaluate import evaluate_glue

        evaluate_glue(flags.model, chosen["glue"], settings=settings["glue"], output_dir=flags.output_dir, say=say)
    if "squad" in chosen:
        from ..evaluation.squad.evaluate import evaluate_squad

        evaluate_squad(flags.model, chosen["squad"], settings=settings["squad"], output_dir=flags.output_dir, say=say)


def _chosen(names: Sequence[str]) -> dict[str, list[str]]:
    """Kind of evaluation → its tasks, in the order of `_KINDS`."""
    valid = [*dict.fromkeys([_DISCREPANCY, *_GLUE, *_SQUAD, *_GROUPS])]
    for name in names:
        if name not in valid:
            raise ValueError(f"task={shown(name)} is unknown; nearest valid: {nearest_name(name, valid)!r}")
    wanted = [task for name in names for task in _GROUPS.get(name, (name,))]
    chosen = {kind: [task for task in dict.fromkeys(wanted) if task in tasks] for kind, (tasks, _) in _KINDS.items()}
    return {kind: tasks for kind, tasks in chosen.items() if tasks}


def _settings(flags: Mapping[str, Any], chosen: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Kind → its settings; a flag that none of the chosen ones has is an error."""
    given = {name: flags[name] for name in _flags() if name in flags}
    for name in given:
        kinds = [kind for kind, (_, settings) in _KINDS.items() if name in _names(settings)]
        if not set(kinds) & set(chosen):
            raise ValueError(f"--{name} is for {' and '.join(kinds)}, which --task does not name; drop it")
    return {
        kind: _KINDS[kind][1](**{name: value for name, value in given.items() if name in _names(_KINDS[kind][1])})
        for kind in chosen
    }


def _flags() -> dict[str, dict[str, Any]]:
    """Name of a setting → arguments of `add_argument`; the first kind that has it describes it."""
    found: dict[str, dict[str, Any]] = {}
    for _, settings in _KINDS.values():
        hints = get_type_hints(settings)
        for entry in fields(settings):
            described = {**_flag_type(hints[entry.name]), "help": entry.metadata["help"]}
            found.setdefault(entry.name, described)
    return found


def _flag_type(hint: Any) -> dict[str, Any]:
    if get_origin(hint) is tuple:
        return {"type": get_args(hint)[0], "nargs": "+"}
    if get_origin(hint) in (Union, types.UnionType):
        return {"type": get_args(hint)[0]}
    return {"type": hint}


def _names(settings: type) -> set[str]:
    return {entry.name for entry in fields(settings)}


def _check_output(output: str | None) -> None:
    if output is not None and Path(output).suffix not in (".md", ".json"):
        raise ValueError(f"output={output!r} has the suffix {Path(output).suffix!r}; expected .md or .json")


def _table(models: Sequence[str], teacher: str | None, output: str | None) -> str:
    from ..evaluation.comparison import compare, format_comparison

    comparison = compare(models, teacher=teacher)
    text = format_comparison(comparison)
    if output is not None:
        content = json.dumps(comparison, indent=2, ensure_ascii=False) if output.endswith(".json") else text
        write_text(Path(output), content + "\n")
    return text
