"""What `homodistil plan` says: a student's widths and costs, how a run of it is trained, its time and memory here.

`plans/` and `models/cost.py` find widths and costs. A plan needs the teacher's configuration alone: what loads
Trainer, data sets or timing is imported where it is asked for.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..files.messages import Log
from ..files.model_files import model_file
from ..files.settings import checked_values, setting_types, split_config
from ..models.architectures import HEADS
from ..models.cost import COSTS, cost_fractions, planned_facts
from ..models.loading import MODULES_FILE, config_values, load_encoder_config
from ..models.widths import widths_of
from ..plans.advice import advise, check_num_tokens, depth_reason, doubts, read_advice
from ..plans.budgets import FEWER_LAYERS_BELOW, LATENCY_BUDGET, WIDTH_MULTIPLE, is_latency_budget
from ..plans.resolve import resolve_plan
from ..tables import format_table
from ..tasks.kinds import MASKED_WORDS, task_kind_of

_SIZES = ("coverage=0.98", "coverage=0.99", "coverage=0.995", "coverage=0.999", "coverage=1")
"""Vocabularies that a plan describes beside the wanted one."""


@dataclass(kw_only=True)
class PlanQuestion:
    """Which student is planned and what is asked of it; the flags of the command describe the fields.

    Widths in the run's file count where no field gives them.

    Raises:
        ValueError: fields that contradict each other or the file.
    """

    teacher: str
    student: str | None
    latency_ms: float | None
    batch_size: int | None
    length: int | None
    backend: str | None
    no_measurement: bool
    num_tokens: float | None
    time: bool
    train_data: list[str]
    config: str | None
    vocabulary: str | None
    text: list[str]
    teacher_revision: str | None
    plain: bool
    width_multiple: int | None

    def __post_init__(self) -> None:
        self._check_time()
        if self.num_tokens is not None:
            check_num_tokens(self.num_tokens)
        self._take_widths()
        self._check_time()  # of the file's student, too
        if self.num_tokens is not None and not self._predicts_masked_words():
            raise ValueError(
                f"num_tokens={self.num_tokens:g}: runs on masked words were measured, {self.teacher} predicts none; "
                "leave it out"
            )

    def _check_time(self) -> None:
        if self.time and (self.latency_ms is not None or is_latency_budget(self.student)):
            raise ValueError("--time times a run of a known student; name it by --student, without latency_ms")
        if self.time and self.vocabulary is not None:
            raise ValueError("--time with --vocabulary: trim first (homodistil trim), and time the trimmed teacher")

    def _take_widths(self) -> None:
        found = _widths_in(self.config) if self.config else {}
        self.plain |= found.get("plain", False)
        if self.width_multiple is None:
            self.width_multiple = found.get("width_multiple", WIDTH_MULTIPLE)
        if (start := found.get("start")) is not None:
            if self.student is not None:
                raise ValueError(f"--student={self.student} beside start={start!r} of {self.config}: drop --student")
            return
        if self.student is None:
            self.student = found.get("student")
        if self.student is None and self.latency_ms is None:
            raise ValueError(f"--student is not given, and {self.config} names neither student nor start; name one")

    def answer(self, log: Log) -> tuple[dict[str, Any], str]:
        """Plan, and time what is to be timed; `log` gets warnings and lines of progress.

        Returns:
            The facts for machines, and the same in words.
        """
        latency = self._latency()
        timing: dict[str, Any] = {}
        if self.time:
            from .timing import time_run

            values: dict[str, Any] = split_config([self.config])[0] if self.config else {}
            names = ("teacher", "student", "plain", "width_multiple", "train_data", "teacher_revision")
            values |= {name: value for name in names if (value := getattr(self, name))}
            timing = time_run(values, log, num_tokens=self.num_tokens)
        # a run has its own: its method, settings and start count
        plan = timing.pop("student", None) or latency.get("plan") or self._plan
        architecture, teacher = self._config.architectures[0], widths_of(self._config)
        trimming = None
        if self.vocabulary is not None:
            from .trim import TrimSource, plan_trimming

            source = TrimSource(self.teacher, self.vocabulary, self.text, revision=self.teacher_revision)
            trimming = plan_trimming(source, sizes=_SIZES)
        of_student = trimming.trimmed_config if trimming else self._config
        costs: dict[str, Any] = {
            "teacher": planned_facts(self._config, architecture),
            "student": planned_facts(of_student, architecture, plan),
            "padded": planned_facts(of_student, architecture, plan.padded()),
        }
        costs["cost_fractions"] = cost_fractions(costs["student"], costs["teacher"])
        if trimming:
            costs["vocabulary"] = trimming.facts
        if latency:
            costs["latency"] = latency["facts"]
        for warning in doubts(plan, teacher):
            log(f"warning: {warning}")
        costs |= self._of_the_run(costs["cost_fractions"]["encoder_macs"], timing)
        reason = depth_reason(self.student or "", plan, teacher)
        # other methods and settings may leave layers out as well
        lines = [format_plan(costs), reason if reason and plan == self._plan else None]
        if trimming:
            from .trim import format_sizes, format_trimming

            lines.append(f"vocabulary, of the teacher:\n{format_trimming(trimming.facts)}")
            lines.append(format_sizes(trimming.facts["sizes"]))
        lines.append(format_planned_latency(costs["latency"]) if latency else None)
        lines.append(format_planned_run(costs["run"]) if "run" in costs else None)
        if timing:
            from .timing import format_timing

            lines.append(format_timing(timing))
        return costs, "\n\n".join(filter(None, [*lines, costs.get("advice")]))

    @cached_property
    def _config(self) -> Any:
        """Configuration of the teacher's encoder; what several modules make up is its method's to read."""
        if not Path(self.teacher).is_dir():  # else a Hub that can't be reached would be asked for another file
            config_values(self.teacher, f"teacher={self.teacher!r}", revision=self.teacher_revision)
        if not self._has_modules:
            return load_encoder_config(self.teacher, revision=self.teacher_revision)
        from .kinds import planned_config

        return planned_config(self.teacher)

    @property
    def _has_modules(self) -> bool:
        return model_file(self.teacher, MODULES_FILE) is not None

    @cached_property
    def _plan(self) -> Any:
        """The student's widths by the method that the folder of its teacher is for, or by the default."""
        least = FEWER_LAYERS_BELOW
        if self._has_modules:
            from .kinds import method_for, trainer_named

            least = trainer_named(method_for(self.teacher) or "homodistil").fewer_layers_below
        multiple = self.width_multiple or WIDTH_MULTIPLE
        return resolve_plan(
            self.student or "", self._config, multiple=multiple, plain=self.plain, fewer_layers_below=least
        )

    def _predicts_masked_words(self) -> bool:
        """Whether the teacher has a head, and it is not a task's; an embedding model's encoder has none."""
        return self._config.architectures[0] in HEADS and task_kind_of(self._config) == MASKED_WORDS

    def _latency(self) -> dict[str, Any]:
        """The plan for a budget of milliseconds and what is known of its latency; empty for any other student."""
        conditions = {"batch_size": self.batch_size, "length": self.length, "backend": self.backend}
        given = {name: value for name, value in conditions.items() if value is not None}
        if self.latency_ms is None and (given or self.no_measurement):
            name = next(iter(given), "no_measurement")
            raise ValueError(f"--{name} says how a latency is measured; give --latency_ms with it")
        student = self.student or ""
        if self.latency_ms is not None:
            student = ",".join(f"{name}={value}" for name, value in {LATENCY_BUDGET: self.latency_ms, **given}.items())
        if not is_latency_budget(student):
            return {}
        from ..plans.latency.budget import LatencyBudget, measure_plan, plan_within

        budget = LatencyBudget.parse(student).on(self._config)
        found = plan_within(budget, self._config, multiple=self.width_multiple or WIDTH_MULTIPLE, plain=self.plain)
        facts = found.facts(budget)
        if not self.no_measurement:
            facts["measured"] = measure_plan(found.plan, self._config, budget.conditions)
        return {"plan": found.plan, "facts": facts}

    def _of_the_run(self, encoder_macs: float, timing: Mapping[str, Any]) -> dict[str, Any]:
        """How the run is trained, its time and memory, and what was measured of such runs; each where asked for."""
        found: dict[str, Any] = {}
        num_tokens = self.num_tokens
        if num_tokens is not None:
            found["run"] = planned_run(num_tokens, self._config.hidden_size)
        if timing:
            found["timing"] = timing
            num_tokens = timing["num_tokens"] if self._predicts_masked_words() else None
        if num_tokens is not None:
            teacher, measured = read_advice()
            found["advice"] = advise(encoder_macs, num_tokens, measured=measured, teacher=teacher)
        return found


def _widths_in(config: str) -> dict[str, Any]:
    from ..training_args import DistillationArguments
    from .settings import RunArguments

    values, _, label = split_config([config])
    names = {"plain", "width_multiple", "student", "start"}
    own: dict[str, Any] = {name: value for name, value in values.items() if name in names}
    if isinstance(own.get("student"), dict | list):
        own["student"] = json.dumps(own["student"])
    return checked_values(own, setting_types(RunArguments, DistillationArguments), label)


def planned_run(num_tokens: float, hidden_size: int) -> dict[str, Any]:
    """What a run of so many tokens does where only its length is given, on one device, from a teacher so wide."""
    from ..homodistil_args import HomoDistilTrainingArguments
    from ..training.learning_rate import USUAL_ROW_LENGTH, default_learning_rate, learning_rate_hold_step

    args = HomoDistilTrainingArguments(report_to="none")
    tokens_per_step = args.per_device_train_batch_size * USUAL_ROW_LENGTH
    num_steps = max(1, round(num_tokens / tokens_per_step))
    plan_step = args.pruning_schedule(num_steps).end_step
    return {
        "max_steps": num_steps,
        "per_device_train_batch_size": args.per_device_train_batch_size,
        "row_length": USUAL_ROW_LENGTH,
        "learning_rate": float(f"{default_learning_rate(tokens_per_step, hidden_size):.2g}"),
        "adam_beta2": args.adam_beta2,
        "warmup_steps": args.get_warmup_steps(num_steps),
        "pruning_end_step": math.ceil(plan_step),
        "hold_end_step": math.ceil(learning_rate_hold_step(args, num_steps, plan_step=plan_step)),
    }


def format_planned_run(run: Mapping[str, Any]) -> str:
    """Describe how such a run is trained."""
    pruned = (
        f"pruning until step {run['pruning_end_step']:,}" if run["pruning_end_step"] else "pruned before the first"
    )
    return (
        f"a run of so many tokens, where nothing else is given:\n  {run['max_steps']:,} steps of "
        f"{run['per_device_train_batch_size']} × {run['row_length']} tokens, {pruned}\n  learning_rate "
        f"{run['learning_rate']:g} after {run['warmup_steps']} steps of warm-up, held until step "
        f"{run['hold_end_step']:,}, then falling to 0; adam_beta2 {run['adam_beta2']:g}"
    )


def format_plan(costs: Mapping[str, Mapping[str, Any]]) -> str:
    """Lay out the widths and costs of a student beside its teacher's.

    Args:
        costs: `teacher`, `student` and `padded` (the student as the stock class), each as [`planned_facts`] has it,
            and `cost_fractions`.
    """
    names = {"teacher": "teacher", "student": "student", "padded": "padded to the stock class"}
    if costs["padded"]["plan"] == costs["student"]["plan"]:
        del names["padded"]
    widths = [
        f"{name}: {facts['architecture']}, {facts['num_hidden_layers']} layers, {json.dumps(facts['plan'])}"
        for name, facts in costs.items()
        if name in ("teacher", "student")
    ]
    rows = [{"name": label, **{key: costs[name].get(key) for key in COSTS}} for name, label in names.items()]
    fractions = costs["cost_fractions"]
    shares = (
        f"student / teacher: parameters {fractions['num_parameters']:.3f}, MACs {fractions['encoder_macs']:.3f}\n"
        "(encoder MACs: multiply-accumulates of one token through all layers at length 128; bytes: float32)"
    )
    return "\n".join([*widths, "", format_table(rows), "", shares])


def format_planned_latency(facts: Mapping[str, Any]) -> str:
    """Lay out the latency of a plan made for a budget: predicted and, if it was, measured."""
    conditions, predicted = facts["conditions"], facts["predicted_ms"]
    place = f"batch {conditions['batch_size']}, length {conditions['length']}, {conditions['backend']}, float32"
    lines = [
        f"latency of embeddings and encoder on this machine ({place}), budget {facts['limit_ms']:g} ms",
        f"  predicted: student {predicted['student']:.2f} ms, teacher {predicted['teacher']:.2f} ms",
    ]
    if measured := facts.get("measured"):
        latency, ratio = measured["latency"], measured["speed_up"]
        figures = [
            f"{name} {latency[name]['median_ms']:.2f} ms "
            f"({latency[name]['lower_quartile_ms']:.2f} – {latency[name]['upper_quartile_ms']:.2f})"
            for name in ("student", "teacher")
        ]
        spread = f"{ratio['lower_quartile']:.2f} – {ratio['upper_quartile']:.2f}"
        lines.append(f"  measured:  {', '.join(figures)}; {ratio['ratio']:.2f}× ({spread}) as fast")
    return "\n".join(lines)
