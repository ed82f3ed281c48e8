"""`homodistil evaluate`: which evaluations its flags ask for, then one table. How something is measured isn't here."""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from ..files.folders import write_text
from ..files.messages import nearest_name, short_repr
from .parsing import flag, parse, settings_flags, show_logs, tell

_USAGE = "homodistil evaluate MODEL --task TASK … [--key value …]\n       homodistil evaluate --compare MODEL …"
_DISCREPANCY, _EMBEDDING = "discrepancy", "embedding"
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


@dataclass(kw_only=True)
class Evaluate:
    """Measure a model: discrepancy to its teacher, GLUE, SQuAD, its vectors; or compare what was measured."""

    example: ClassVar[str] = "homodistil evaluate runs/my-student --task rte mrpc --seeds 0 1 2"
    model: str | None = flag(
        "export, run, checkpoint-N, folder or Hub name",
        default=None,
        positional=True,
        nargs="?",
        metavar="MODEL",
    )
    task: list[str] = flag("what to measure, names below", default=[], metavar="TASK")
    teacher: str | None = flag("for discrepancy, embedding (default: as recorded) and --compare", default=None)
    output_dir: str | None = flag("results (default: evaluations/NAME beside the model)", default=None, metavar="DIR")
    compare: list[str] = flag("one table of models evaluated before", default=[], metavar="MODEL")
    output: str | None = flag("write the table, as .md or .json", default=None, metavar="FILE")


@dataclass(frozen=True)
class _Kind:
    """One of the evaluations: its tasks, the class of its settings, what measures, whether beside a teacher."""

    tasks: tuple[str, ...]
    settings: Any
    evaluate: Callable[..., Any]
    has_teacher: bool = False

    def setting_names(self) -> list[str]:
        return [entry.name for entry in fields(self.settings)]


def run_evaluate(words: Sequence[str]) -> int:
    """Run the command, with every setting of its evaluations as a flag, and return its exit status."""
    kinds = _kinds()
    groups = {kind: found.tasks for kind, found in kinds.items() if kind == "glue"}
    groups["all"] = tuple(task for kind, found in kinds.items() for task in found.tasks if kind != _EMBEDDING)
    settings = settings_flags([kind.settings for kind in kinds.values()], _MAIN_SETTINGS)
    rare = " ".join(f"--{entry.name}" for entry in fields(settings) if entry.name not in _MAIN_SETTINGS)
    words_for_tasks = " ".join([*groups["all"], *groups, _EMBEDDING])
    flags, given = parse(
        "evaluate",
        words,
        Evaluate,
        settings,
        usage=_USAGE,
        epilog=f"\ntasks: {words_for_tasks}\nfurther settings (docs/evaluation.md): {rare}",
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=32),
    )
    show_logs()
    _check(flags)
    if flags.compare:
        print(_table(flags.compare, flags.teacher, flags.output))
        return 0
    chosen = _chosen(flags.task, kinds, groups)
    given = {name: value for name, value in vars(given).items() if value is not None}
    for kind, values in _settings(given, kinds, chosen).items():
        asked = {"teacher": flags.teacher} if kinds[kind].has_teacher else {"tasks": chosen[kind]}
        found = kinds[kind].evaluate(flags.model, **asked, settings=values, output_dir=flags.output_dir, say=tell)
        if kind == _EMBEDDING:
            from ..methods.embedding.evaluate import format_scores

            print(_written(format_scores(found), found, flags.output))
            return 0
    print(_table([flags.output_dir or flags.model], None, flags.output))
    return 0


def _kinds() -> dict[str, _Kind]:
    from ..evaluation.glue.data import GLUE_TASKS
    from ..evaluation.glue.evaluate import GlueSettings, evaluate_glue
    from ..evaluation.held_out_text import DiscrepancySettings, evaluate_discrepancy
    from ..evaluation.metrics import SQUAD_METRICS
    from ..evaluation.squad.evaluate import SquadSettings, evaluate_squad
    from ..methods.embedding.evaluate import EmbeddingEvaluationSettings, evaluate_embedding

    return {
        _DISCREPANCY: _Kind((_DISCREPANCY,), DiscrepancySettings, evaluate_discrepancy, has_teacher=True),
        "glue": _Kind(tuple(GLUE_TASKS), GlueSettings, evaluate_glue),
        "squad": _Kind(tuple(SQUAD_METRICS), SquadSettings, evaluate_squad),
        _EMBEDDING: _Kind((_EMBEDDING,), EmbeddingEvaluationSettings, evaluate_embedding, has_teacher=True),
    }


def _check(flags: Evaluate) -> None:
    suffix = Path(flags.output or "table.md").suffix
    if suffix not in (".md", ".json"):
        raise ValueError(f"output={flags.output!r} has the suffix {suffix!r}; expected .md or .json")
    if flags.compare and (flags.model or flags.task):
        raise ValueError(f"--compare only reads results: drop MODEL={flags.model!r} and --task, or run it afterwards")
    if not flags.compare and not (flags.model and flags.task):
        raise ValueError(f"MODEL={flags.model!r}, --task={flags.task}: name both, or --compare MODEL …")


def _chosen(
    names: Sequence[str], kinds: Mapping[str, _Kind], groups: Mapping[str, tuple[str, ...]]
) -> dict[str, list[str]]:
    """Kind of evaluation → its tasks, in the order of the kinds."""
    valid = [*groups["all"], *groups, _EMBEDDING]
    for name in names:
        if name not in valid:
            raise ValueError(f"task={short_repr(name)} is unknown; nearest valid: {nearest_name(name, valid)!r}")
    if _EMBEDDING in names and len(set(names)) > 1:
        others = ", ".join(name for name in names if name != _EMBEDDING)
        raise ValueError(f"task={_EMBEDDING} is for models without a head, {others} for others: name it alone")
    wanted = dict.fromkeys(task for name in names for task in groups.get(name, (name,)))
    chosen = {kind: [task for task in wanted if task in found.tasks] for kind, found in kinds.items()}
    return {kind: tasks for kind, tasks in chosen.items() if tasks}


def _settings(given: Mapping[str, Any], kinds: Mapping[str, _Kind], chosen: Iterable[str]) -> dict[str, Any]:
    """Kind → its settings; a flag that none of the chosen ones has is an error."""
    for name in given:
        having = [kind for kind, found in kinds.items() if name in found.setting_names()]
        if not set(having) & set(chosen):
            raise ValueError(f"--{name} is for {' and '.join(having)}, which --task does not name; drop it")
    return {
        kind: kinds[kind].settings(**{name: given[name] for name in kinds[kind].setting_names() if name in given})
        for kind in chosen
    }


def _table(models: Sequence[str], teacher: str | None, output: str | None) -> str:
    from ..evaluation.comparison import compare, format_comparison

    comparison = compare(models, teacher=teacher)
    return _written(format_comparison(comparison), comparison, output)


def _written(text: str, values: Mapping[str, Any], output: str | None) -> str:
    """A table, after it or its values have been written where that was asked for."""
    if output is not None:
        content = json.dumps(values, indent=2, ensure_ascii=False) if output.endswith(".json") else text
        write_text(Path(output), content + "\n")
    return text
