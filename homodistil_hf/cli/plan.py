"""`homodistil plan`: how wide a student will be and what it costs. `plans` and `models/cost.py` find both."""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..files.settings import flag
from ..tables import format_table
from .command import Command, log_progress, show_logs

_SIZES = ("coverage=0.98", "coverage=0.99", "coverage=0.995", "coverage=0.999", "coverage=1")
"""Vocabularies that a plan describes beside the wanted one."""
_WIDTH_MULTIPLE = 8  # as in training_args.py, which imports more than a plan needs


@dataclass(kw_only=True)
class Plan(Command):
    """Say how wide a student will be and what it costs, from the teacher's configuration alone."""

    example: ClassVar[str] = "homodistil plan --teacher google-bert/bert-base-uncased --student macs=0.25"
    usage = "homodistil plan --teacher TEACHER (--student STUDENT | --latency_ms MS) [--key value …]"
    teacher: str = flag("Hub name or folder of a model")
    student: str | None = flag(
        "this or --latency_ms: preset, budget (params=14M, macs=0.25, compact_macs=0.25, any "
        "with ,num_attention_heads=8, ,hidden_size=216 or ,layers=4 behind it), short plan (216-9x24-528; "
        "4x216-9x24-528 of 4 layers), JSON file or object; default: of --config",
        default=None,
    )
    latency_ms: float | None = flag(
        "this or --student: milliseconds of a forward pass here, no head", default=None, metavar="MS"
    )
    batch_size: int | None = flag("latency_ms: sequences a forward pass (default: 1)", default=None, metavar="N")
    length: int | None = flag("latency_ms: tokens a sequence (default: 128, or the positions)", default=None)
    backend: str | None = flag("latency_ms: torch (default) or onnxruntime", default=None)
    no_measurement: bool = flag("latency_ms: don't time the chosen plan itself", default=False)
    num_tokens: float | None = flag("to train on, e.g. 2e6: how, and what was measured", default=None, metavar="N")
    time: bool = flag("minutes and memory, by steps here; with --train_data or --config", default=False)
    train_data: list[str] = flag("time: rows or text of the run", default=[], metavar="X")
    config: str | None = flag("time: JSON file with settings of the run", default=None, metavar="CONFIG.json")
    vocabulary: str | None = flag(
        "with --text: tokens that stay, coverage=0.999, keep=16384, min_count=5, a file; beside other sizes",
        default=None,
        metavar="V",
    )
    text: list[str] = flag(
        "vocabulary: text whose tokens are counted, files or Hub data sets", default=[], metavar="X"
    )
    teacher_revision: str | None = flag("branch, tag or commit on the Hub", default=None, metavar="REVISION")
    plain: bool = flag("keep the hidden size: no Dense, and heads fit", default=False)
    width_multiple: int | None = flag(
        f"budgets: round widths to multiples (default: {_WIDTH_MULTIPLE})", default=None, metavar="N"
    )
    json: bool = flag("print JSON for machines", default=False)

    def __post_init__(self) -> None:
        if self.student is None and self.latency_ms is None and self.config is None:
            raise ValueError("one of the arguments --student --latency_ms is required; see homodistil plan --help")
        if self.student is not None and self.latency_ms is not None:
            raise ValueError("argument --latency_ms: not allowed with argument --student; drop one")
        if bool(self.text) != (self.vocabulary is not None):
            raise ValueError("--vocabulary is chosen by the tokens of a text; give --text with it, or neither")
        self._check_time()

    def _check_time(self) -> None:
        from ..plans.budgets import is_latency_budget

        has_rows = bool(self.train_data or self.config)
        if self.time != has_rows:
            raise ValueError(
                "--time takes steps of a run; give --time with --train_data or --config, or neither of them"
            )
        if self.time and (self.latency_ms is not None or is_latency_budget(self.student)):
            raise ValueError("--time times a run of a known student; name it by --student, without latency_ms")
        if self.time and self.vocabulary is not None:
            raise ValueError("--time with --vocabulary: trim first (homodistil trim), and time the trimmed teacher")

    def run(self) -> int:
        """Print the plan."""
        from ..models.cost import cost_fractions, planned_facts
        from ..models.widths import widths_of
        from ..plans.advice import check_num_tokens, depth_reason, doubts

        if self.num_tokens is not None:
            check_num_tokens(self.num_tokens)
        _take_widths(self)
        self._check_time()  # of the file's student, too
        config = _encoder_config(self.teacher, self.teacher_revision)
        if self.num_tokens is not None:
            _check_masked_words(config, self)
        settings: Any = {"multiple": self.width_multiple, "plain": self.plain}
        latency = _planned_latency(self, config, settings)
        timing = _timed(self) if self.time else {}
        # a run has its own: its method, settings and start count
        plan = timing.pop("student", None) or latency.get("plan") or _planned(self, config, settings)
        architecture = config.architectures[0]
        trimming = _planned_trimming(self)
        of_student = trimming.trimmed_config if trimming else config
        costs: dict[str, dict[str, Any]] = {
            "teacher": planned_facts(config, architecture),
            "student": planned_facts(of_student, architecture, plan),
            "padded": planned_facts(of_student, architecture, plan.padded()),
        }
        costs["cost_fractions"] = cost_fractions(costs["student"], costs["teacher"])
        if trimming:
            costs["vocabulary"] = trimming.facts
        if latency:
            costs["latency"] = latency["facts"]
        for warning in doubts(plan, widths_of(config)):
            print(f"homodistil: warning: {warning}", file=sys.stderr)
        costs |= _of_the_run(self, config, costs["cost_fractions"]["encoder_macs"], timing)
        if self.json:
            print(json.dumps(costs, indent=2))
            return 0
        reason = depth_reason(self.student or "", plan, widths_of(config))
        # other methods and settings may leave layers out as well
        lines = [format_plan(costs), reason if reason and plan == _planned(self, config, settings) else None]
        lines += [format_trimmed(trimming.facts)] if trimming else []
        lines += [format_planned_latency(costs["latency"]) if latency else None, *_run_lines(costs)]
        print("\n\n".join(filter(None, lines)))
        return 0


def _encoder_config(teacher: str, revision: str | None) -> Any:
    """Read the configuration of the teacher's encoder; what several modules make up is its method's to read."""
    from ..files.model_files import model_file
    from ..models.loading import MODULES_FILE, config_values, load_encoder_config

    if not Path(teacher).is_dir():  # else a Hub that can't be reached would be asked for another file
        config_values(teacher, f"teacher={teacher!r}", revision=revision)
    if model_file(teacher, MODULES_FILE) is None:
        return load_encoder_config(teacher, revision=revision)
    from ..runs.kinds import planned_config

    return planned_config(teacher)


def _planned(flags: Plan, config: Any, settings: Mapping[str, Any]) -> Any:
    """The widths of a student by the method that the folder of its teacher is for, or by the default."""
    from ..files.model_files import model_file
    from ..models.loading import MODULES_FILE
    from ..plans.budgets import FEWER_LAYERS_BELOW
    from ..plans.resolve import resolve_plan

    least = FEWER_LAYERS_BELOW
    if model_file(flags.teacher, MODULES_FILE) is not None:
        from ..runs.kinds import method_for, trainer_named

        least = trainer_named(method_for(flags.teacher) or "homodistil").fewer_layers_below
    return resolve_plan(flags.student or "", config, **settings, fewer_layers_below=least)


def _take_widths(flags: Plan) -> None:
    """Let the settings of widths in the run's file count where no flag gives them."""
    found = _widths_in(flags.config) if flags.config else {}
    flags.plain |= found.get("plain", False)
    if flags.width_multiple is None:
        flags.width_multiple = found.get("width_multiple", _WIDTH_MULTIPLE)
    if (start := found.get("start")) is not None:
        if flags.student is not None:
            raise ValueError(f"--student={flags.student} beside start={start!r} of {flags.config}: drop --student")
        return
    if flags.student is None:
        flags.student = found.get("student")
    if flags.student is None and flags.latency_ms is None:
        raise ValueError(f"--student is not given, and {flags.config} names neither student nor start; name one")


def _widths_in(config: str) -> dict[str, Any]:
    from ..files.settings import checked_values, setting_types, split_config
    from ..runs.settings import RunArguments
    from ..training_args import DistillationArguments

    values, _, label = split_config([config])
    names = {"plain", "width_multiple", "student", "start"}
    own: dict[str, Any] = {name: value for name, value in values.items() if name in names}
    if isinstance(own.get("student"), dict | list):
        own["student"] = json.dumps(own["student"])
    return checked_values(own, setting_types(RunArguments, DistillationArguments), label)


def _timed(flags: Plan) -> dict[str, Any]:
    """Take steps of the run that the flags describe."""
    from ..files.settings import split_config
    from ..runs.timing import time_run

    values: dict[str, Any] = split_config([flags.config])[0] if flags.config else {}
    names = ("teacher", "student", "plain", "width_multiple", "train_data", "teacher_revision")
    values |= {name: value for name in names if (value := getattr(flags, name))}
    show_logs()
    return time_run(values, log_progress, num_tokens=flags.num_tokens)


def _of_the_run(flags: Plan, config: Any, encoder_macs: float, timing: Mapping[str, Any]) -> dict[str, Any]:
    """How the run is trained, its time and memory here, and what was measured of such runs; each where asked for."""
    from ..plans.advice import advise, read_advice

    found: dict[str, Any] = {}
    num_tokens = flags.num_tokens
    if num_tokens is not None:
        found["run"] = planned_run(num_tokens, config.hidden_size)
    if timing:
        found["timing"] = timing
        num_tokens = timing["num_tokens"] if _predicts_masked_words(config) else None
    if num_tokens is not None:
        teacher, measured = read_advice()
        found["advice"] = advise(encoder_macs, num_tokens, measured=measured, teacher=teacher)
    return found


def _run_lines(costs: Mapping[str, Any]) -> list[str]:
    """What [`_of_the_run`] found, in words."""
    lines = [format_planned_run(costs["run"])] if "run" in costs else []
    if "timing" in costs:
        from ..runs.timing import format_timing

        lines.append(format_timing(costs["timing"]))
    return [*lines, *filter(None, [costs.get("advice")])]


def _predicts_masked_words(config: Any) -> bool:
    """Whether a teacher has a head, and it is not a task's; an embedding model's encoder has none."""
    from ..models.architectures import HEADS
    from ..tasks.kinds import MASKED_WORDS, kind_of

    return config.architectures[0] in HEADS and kind_of(config) == MASKED_WORDS


def _check_masked_words(config: Any, flags: Plan) -> None:
    if not _predicts_masked_words(config):
        raise ValueError(
            f"num_tokens={flags.num_tokens:g}: runs on masked words were measured, {flags.teacher} predicts none; "
            "leave it out"
        )


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
    from ..models.cost import COSTS

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


def _planned_trimming(flags: Plan) -> Any:
    """What `--vocabulary` leaves; None where it isn't given."""
    if flags.vocabulary is None:
        return None
    from ..runs.trim import TrimSource, plan_trimming

    show_logs()
    source = TrimSource(flags.teacher, flags.vocabulary, flags.text, revision=flags.teacher_revision)
    return plan_trimming(source, sizes=_SIZES)


def format_trimmed(facts: Mapping[str, Any]) -> str:
    """Describe what a smaller vocabulary does to the teacher and the text."""
    from ..runs.trim import format_sizes, format_trimming

    return f"vocabulary, of the teacher:\n{format_trimming(facts)}\n\n{format_sizes(facts['sizes'])}"


def _planned_latency(flags: Plan, config: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The plan for `--latency_ms` and what is known of its latency; empty for any other student."""
    from ..plans.budgets import LATENCY_BUDGET, is_latency_budget

    conditions = {"batch_size": flags.batch_size, "length": flags.length, "backend": flags.backend}
    given = {name: value for name, value in conditions.items() if value is not None}
    if flags.latency_ms is None and (given or flags.no_measurement):
        name = next(iter(given), "no_measurement")
        raise ValueError(f"--{name} says how a latency is measured; give --latency_ms with it")
    student = flags.student or ""
    if flags.latency_ms is not None:
        student = ",".join(f"{name}={value}" for name, value in {LATENCY_BUDGET: flags.latency_ms, **given}.items())
    if not is_latency_budget(student):
        return {}
    from ..plans.latency.budget import LatencyBudget, measure_plan, plan_within

    show_logs()
    budget = LatencyBudget.parse(student).on(config)
    found = plan_within(budget, config, **settings)
    facts = found.facts(budget)
    if not flags.no_measurement:
        facts["measured"] = measure_plan(found.plan, config, budget.conditions)
    return {"plan": found.plan, "facts": facts}
