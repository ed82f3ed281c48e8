"""`homodistil evaluate`: runs the evaluations that its flags ask for, then prints one table; `evaluation` measures."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from ..files.folders import check_writable_file
from ..files.messages import nearest_valid, short_repr
from ..files.settings import build, flag
from .command import Command, log_progress, settings_parser, show_logs, write_output

_DISCREPANCY, _CLASSES, _GLUE, _SQUAD, _EMBEDDING = "discrepancy", "classes", "glue", "squad", "embedding"
_USAGE = "homodistil evaluate MODEL --task TASK … [--key value …]\n       homodistil evaluate --compare MODEL …"


class _Kind(NamedTuple):
    """An evaluation: its tasks, the class of its settings, its function, whether it takes a teacher, its own table."""

    tasks: tuple[str, ...]
    settings: Any
    evaluate: Any
    has_teacher: bool = False
    format: Any = None


@dataclass
class Evaluate(Command):
    """Measure a model: discrepancy to its teacher, GLUE, SQuAD, classes, vectors; or compare what was measured."""

    example: ClassVar[str] = "homodistil evaluate runs/my-student --task rte mrpc --seeds 0 1 2"
    main_settings: ClassVar = (
        *("eval_data", "data_dir", "seeds", "learning_rate", "learning_rates", "num_train_epochs"),
        *("max_train_samples", "dtype"),
    )
    model: str | None = flag(
        "export, run, checkpoint-N, folder or Hub name",
        default=None,
        positional=True,
        nargs="?",
        metavar="MODEL",
    )
    task: list[str] = flag("what to measure, names below", default=[], metavar="TASK")
    teacher: str | None = flag("for discrepancy, classes, embedding (default: as recorded), --compare", default=None)
    output_dir: str | None = flag("results (default: evaluations/NAME beside the model)", default=None, metavar="DIR")
    compare: list[str] = flag("one table of models evaluated before", default=[], metavar="MODEL")
    output: str | None = flag("write the table, as .md or .json", default=None, metavar="FILE")

    @classmethod
    def main(cls, name: str, words: Sequence[str]) -> int:
        """Run the command, with every setting of its evaluations as a flag."""
        kinds = evaluations()
        settings = [kind.settings for kind in kinds.values()]
        notes = f"\ntasks: {' '.join(_task_names(kinds))}"
        parser = settings_parser(name, cls, *settings, words=words, notes=notes, usage=_USAGE)
        if parser is None:
            return 0
        given = parser.given(words)
        show_logs()
        flags = build(cls, given)
        flags.check(given)
        if flags.compare:
            print(_table(flags.compare, flags.teacher, flags.output))
            return 0
        names = {entry.name for kind in settings for entry in fields(kind)}
        return flags.measure(kinds, {name: value for name, value in given.items() if name in names})

    def check(self, given: Iterable[str]) -> None:
        """Refuse, by a ValueError, flags that don't go together; `given` are the names of all flags."""
        suffix = Path(self.output or "table.md").suffix
        if suffix not in (".md", ".json"):
            raise ValueError(f"output={self.output!r} has the suffix {suffix!r}; expected .md or .json")
        if self.output is not None:
            check_writable_file(self.output, f"output={self.output!r}")
        if not self.compare and not (self.model and self.task):
            raise ValueError(f"MODEL={self.model!r}, --task={self.task}: name both, or --compare MODEL …")
        for name in given if self.compare else ():
            if name not in ("compare", "teacher", "output"):
                flag_or_place = f"MODEL={self.model!r} and --task" if name in ("model", "task") else f"--{name}"
                raise ValueError(f"--compare only reads results: drop {flag_or_place}, or run it afterwards")

    def measure(self, kinds: Mapping[str, _Kind], given: Mapping[str, Any]) -> int:
        """Run the evaluations that the tasks name, and print a table."""
        valid, groups = _task_names(kinds), _groups(kinds)
        for name in self.task:
            if name not in valid:
                raise ValueError(f"task={short_repr(name)} is unknown; {nearest_valid(name, valid)}")
            others = ", ".join(other for other in self.task if other != name)
            if name in kinds and kinds[name].format and others:
                raise ValueError(f"task={name} has a table of its own: name it alone, without {others}")
        # kind of evaluation → its tasks, in the order of the kinds
        wanted = dict.fromkeys(task for name in self.task for task in groups.get(name, (name,)))
        named = {kind: [task for task in wanted if task in one.tasks] for kind, one in kinds.items()}
        chosen = {kind: tasks for kind, tasks in named.items() if tasks}
        # a flag that none of the chosen evaluations takes is an error
        takes = {kind: {entry.name for entry in fields(one.settings)} for kind, one in kinds.items()}
        takes = {kind: names | {"teacher"} if kinds[kind].has_teacher else names for kind, names in takes.items()}
        for name in [*given, *(["teacher"] if self.teacher is not None else [])]:
            having = [kind for kind, names in takes.items() if name in names]
            if not set(having) & set(chosen):
                raise ValueError(f"--{name} is for {', '.join(having)}, which --task does not name; drop it")
        for kind, values in {kind: build(kinds[kind].settings, given) for kind in chosen}.items():
            asked = {"teacher": self.teacher} if kinds[kind].has_teacher else {"tasks": chosen[kind]}
            found = kinds[kind].evaluate(
                self.model, **asked, settings=values, output_dir=self.output_dir, say=log_progress
            )
            if kinds[kind].format:
                print(_written(kinds[kind].format(found), found, self.output))
                return 0
        print(_table([str(self.output_dir or self.model)], None, self.output))
        return 0


def evaluations() -> dict[str, _Kind]:
    """Name → what one evaluation measures, with which settings."""
    from ..embedding.evaluate import EmbeddingEvaluationSettings, evaluate_embedding, format_scores
    from ..evaluation.fine_tuning import GlueSettings
    from ..evaluation.guarantee import ClassesSettings, evaluate_classes, format_classes
    from ..evaluation.held_out_text import DiscrepancySettings, evaluate_discrepancy
    from ..evaluation.task_runs import SquadSettings, evaluate_glue, evaluate_squad
    from ..tasks.glue import GLUE_TASKS, SQUAD_TASKS

    return {
        _DISCREPANCY: _Kind((_DISCREPANCY,), DiscrepancySettings, evaluate_discrepancy, has_teacher=True),
        _GLUE: _Kind(tuple(GLUE_TASKS), GlueSettings, evaluate_glue),
        _SQUAD: _Kind(tuple(SQUAD_TASKS), SquadSettings, evaluate_squad),
        _CLASSES: _Kind((_CLASSES,), ClassesSettings, evaluate_classes, has_teacher=True, format=format_classes),
        _EMBEDDING: _Kind(
            (_EMBEDDING,), EmbeddingEvaluationSettings, evaluate_embedding, has_teacher=True, format=format_scores
        ),
    }


def _groups(kinds: Mapping[str, _Kind]) -> dict[str, tuple[str, ...]]:
    """Name → the tasks that it stands for; those with a table of their own are named one by one."""
    tasks = tuple(task for found in kinds.values() if not found.format for task in found.tasks)
    return {_GLUE: kinds[_GLUE].tasks, "all": tasks}


def _task_names(kinds: Mapping[str, _Kind]) -> list[str]:
    groups = _groups(kinds)
    return [*groups["all"], *groups, *(kind for kind, found in kinds.items() if found.format)]


def _table(models: Sequence[str], teacher: str | None, output: str | None) -> str:
    from ..evaluation.evaluated_model import compare, format_comparison

    comparison = compare(models, teacher=teacher)
    return _written(format_comparison(comparison), comparison, output)


def _written(text: str, values: Mapping[str, Any], output: str | None) -> str:
    """A table, after it or its values have been written where that was asked for."""
    if output is not None:
        content = json.dumps(values, indent=2, ensure_ascii=False) if output.endswith(".json") else text
        write_output(output, content + "\n")
    return text
