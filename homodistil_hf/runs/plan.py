"""What `homodistil plan` says: a student's widths and costs, how a run of it is trained, its time and memory here.

`plans/` and `models/cost.py` find widths and costs. A plan needs the teacher's configuration alone: what loads
Trainer, data sets or timing is imported where it is asked for.
"""

import json
import math
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pkgutil import resolve_name
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ..files.messages import Log
from ..files.model_files import model_file
from ..files.settings import split_config
from ..models.architectures import HEADS, max_tokens
from ..models.cost import COSTS, cost_fractions, planned_facts
from ..models.loading import MODULES_FILE, load_encoder_config
from ..models.widths import WidthPlan, widths_of
from ..plans.advice import advise, check_num_tokens, depth_reason, doubts, read_advice
from ..plans.budgets import (
    EMBEDDINGS_FEWER_LAYERS_BELOW,
    FEWER_LAYERS_BELOW,
    WIDTH_MULTIPLE,
    is_latency_budget,
    listed_students,
    refuse_compact_budget,
)
from ..plans.resolve import resolve_plan
from ..tables import aligned_lines, format_table
from ..tasks.kinds import MASKED_WORDS, task_kind_of

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_SIZES = ("coverage=0.98", "coverage=0.99", "coverage=0.995", "coverage=0.999", "coverage=1")
"""Vocabularies that a plan describes beside the wanted one."""
NUM_STEPS = 20
"""Steps that are taken; the first one warms up and isn't counted."""
_STEPS_ALONE = {"save_strategy": "no", "eval_strategy": "no", "eval_on_start": False}
_STEPS_ALONE |= {"report_to": "none", "push_to_hub": False}


def answer(question: Any, log: Log) -> tuple[dict[str, Any], str]:
    """Plan, and time what is to be timed; `log` gets warnings and lines of progress.

    `question` holds the flags of `cli/plan.py`, which are checked there.

    Returns:
        The facts for machines, and the same in words.

    Raises:
        ValueError: the question contradicts its file, or no such student can be made.
        OSError: a file or a Hub repository can't be read.
    """
    values: dict[str, Any] = {}
    _check_question(question)
    if question.time:
        values = _timed_settings(question)
        # the file's widths are planned where no flag names others
        planned_names = ("student", "plain", "width_multiple")
        question = replace(question, **{name: values[name] for name in planned_names if name in values})
    config, is_of_vectors = _teacher_config(question)
    fewer_layers_below = EMBEDDINGS_FEWER_LAYERS_BELOW if is_of_vectors else FEWER_LAYERS_BELOW
    architecture, widths = config.architectures[0], widths_of(config)
    # an embedding model's encoder has no head, a task's predicts no words, a sparse encoder's are those of vectors
    predicts_words = not is_of_vectors and architecture in HEADS and task_kind_of(config) == MASKED_WORDS
    num_tokens = question.num_tokens
    if num_tokens is not None and not predicts_words:
        raise ValueError(
            f"num_tokens={num_tokens:g}: runs on masked words were measured, {question.teacher} predicts none; "
            "leave it out"
        )

    # a run plans from the trimmed teacher
    trimming = None if question.vocabulary is None else _trimming(question, config, fewer_layers_below, log)
    trimmed = trimming.trimmed_config if trimming else config
    # of a budget of milliseconds, of the run that is timed, as its settings count, or of the teacher's method
    latency, timing = _latency(question, trimmed), {}
    if question.time:
        timing = time_run(values, log, num_tokens=num_tokens)
    plan = timing.pop("student", None) or latency.get("plan") or _plan_of(question, trimmed, fewer_layers_below)
    costs: dict[str, Any] = {
        "teacher": planned_facts(config, architecture),
        "student": planned_facts(trimmed, architecture, plan),
        "padded": planned_facts(trimmed, architecture, plan.padded()),
    }
    costs["cost_fractions"] = cost_fractions(costs["student"], costs["teacher"])
    lines = [format_plan(costs)]
    for warning in doubts(plan, widths):
        log(f"warning: {warning}")
    reason = depth_reason(question.student or "", plan, widths)
    # other methods and settings may leave layers out as well, in a budget that is out of reach here
    with suppress(ValueError):
        if reason and plan == _plan_of(question, trimmed, fewer_layers_below):
            lines.append(reason)

    if trimming:
        from .trim import format_sizes, format_trimming

        costs["vocabulary"] = trimming.facts
        lines.append(f"vocabulary, of the teacher:\n{format_trimming(trimming.facts)}")
        lines.append(format_sizes(trimming.facts["sizes"]))
    if latency:
        costs["latency"] = latency["facts"]
        lines.append(format_planned_latency(costs["latency"]))
    if num_tokens is not None:
        costs["run"] = planned_run(num_tokens, config.hidden_size, max_tokens(config))
        lines.append(format_planned_run(costs["run"]))
    if timing:
        costs["timing"] = timing
        lines.append(format_timing(timing))
        num_tokens = timing["num_tokens"] if predicts_words else None
    if num_tokens is not None:
        teacher, measured = read_advice()
        fraction = costs["cost_fractions"]["encoder_macs"]
        costs["advice"] = advise(fraction, num_tokens, measured=measured, teacher=teacher)
        lines.append(costs["advice"])
    return costs, "\n\n".join(filter(None, lines))


def _timed_settings(question: Any) -> dict[str, Any]:
    """Settings of the run that is timed: those of its file, and the flags, which override them."""
    values = {} if question.config is None else split_config([question.config])[0]
    names = ("teacher", "student", "plain", "width_multiple", "train_data", "teacher_revision")
    values |= {name: value for name in names if (value := getattr(question, name))}
    if is_latency_budget(values.get("student")):
        raise ValueError("--time times a run of a known student; name it by --student, without latency_ms")
    if "student" not in values and "start" not in values:
        raise ValueError(f"--student is not given, and {question.config} names neither student nor start; name one")
    if question.student is not None and "start" in values:
        start = f"start={values['start']!r} of {question.config}"
        raise ValueError(f"--student={question.student} beside {start}: drop --student")
    return values


def _check_question(question: Any) -> None:
    check_num_tokens(question.num_tokens)
    if sizes := listed_students(question.student):
        raise ValueError(f"--student names {len(sizes)} sizes; plan one of them at a time, such as {sizes[0]}")


def _teacher_config(question: Any) -> tuple[Any, bool]:
    """Configuration of the teacher's encoder, and whether a run distils its vectors."""
    teacher, revision = question.teacher, question.teacher_revision
    if model_file(teacher, MODULES_FILE) is not None:
        from .kinds import method_for

        if (method := method_for(teacher)) in ("embedding", "sparse", "multi_vector"):
            if revision is not None:
                raise ValueError(f"teacher_revision={revision!r} has no place with method={method!r}; leave it out")
            refuse_compact_budget(question.student)
            return resolve_name(f"homodistil_hf.runs.{method}:planned_config")(teacher), True
    return load_encoder_config(teacher, revision=revision), False


def _plan_of(question: Any, config: Any, fewer_layers_below: int) -> WidthPlan:
    settings = {"plain": question.plain, "fewer_layers_below": fewer_layers_below}
    return resolve_plan(question.student or "", config, multiple=_multiple(question), **settings)


def _trimming(question: Any, config: Any, fewer_layers_below: int, log: Log) -> Any:
    """The plan of the teacher's vocabulary; a student that no teacher could have is refused before text is read."""
    from .trim import TrimSource, plan_trimming

    # budgets of parameters alone depend on the words
    if not is_latency_budget(question.student) and not (question.student or "").lstrip().startswith("params"):
        _plan_of(question, config, fewer_layers_below)
    source = TrimSource(question.teacher, question.vocabulary, question.text, revision=question.teacher_revision)
    return plan_trimming(source, log, sizes=_SIZES)


def _latency(question: Any, config: Any) -> dict[str, Any]:
    """The plan for a budget of milliseconds and what is known of its latency; empty for any other student."""
    if not is_latency_budget(question.student):
        return {}
    from ..plans.latency import LatencyBudget, measure_plan, plan_within

    budget = LatencyBudget.parse(question.student).on(config)
    plan, facts = plan_within(budget, config, multiple=_multiple(question), plain=question.plain)
    return {"plan": plan, "facts": facts | {"measured": measure_plan(plan, config, budget)}}


def _multiple(question: Any) -> int:
    return WIDTH_MULTIPLE if question.width_multiple is None else question.width_multiple


def planned_run(num_tokens: float, hidden_size: int, most_tokens: int) -> dict[str, Any]:
    """What a run of so many tokens does where only its length is given, on one device.

    The teacher is so wide, and reads rows of `most_tokens` at most.
    """
    from ..homodistil_args import HomoDistilTrainingArguments
    from ..training.learning_rate import USUAL_ROW_LENGTH, default_learning_rate, learning_rate_hold_step

    args = HomoDistilTrainingArguments(report_to="none")
    row_length = min(USUAL_ROW_LENGTH, most_tokens)
    tokens_per_step = args.per_device_train_batch_size * row_length
    num_steps = max(1, round(num_tokens / tokens_per_step))
    plan_step = args.pruning_schedule(num_steps).end_step
    return {
        "max_steps": num_steps,
        "per_device_train_batch_size": args.per_device_train_batch_size,
        "row_length": row_length,
        "learning_rate": float(f"{default_learning_rate(tokens_per_step, hidden_size):.2g}"),
        "adam_beta2": args.adam_beta2,
        "warmup_steps": args.get_warmup_steps(num_steps),
        "pruning_end_step": math.ceil(plan_step),
        "hold_end_step": math.ceil(learning_rate_hold_step(num_steps, plan_step=plan_step)),
    }


def format_planned_run(run: Mapping[str, Any]) -> str:
    """List settings and steps of such a run."""
    cells = [[name, f"{value:,}"] for name, value in run.items()]
    return "\n  ".join(["a run of so many tokens, where nothing else is given:", *aligned_lines(cells)])


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
    """Lay out the latency of a plan made for a budget: predicted and measured."""
    conditions, predicted = facts["conditions"], facts["predicted_ms"]
    place = f"batch {conditions['batch_size']}, length {conditions['length']}, {conditions['backend']}, float32"
    latency, ratio = facts["measured"]["latency"], facts["measured"]["speed_up"]
    figures = [
        f"{name} {latency[name]['median_ms']:.2f} ms "
        f"({latency[name]['lower_quartile_ms']:.2f} – {latency[name]['upper_quartile_ms']:.2f})"
        for name in ("student", "teacher")
    ]
    spread = f"{ratio['lower_quartile']:.2f} – {ratio['upper_quartile']:.2f}"
    return (
        f"latency of embeddings and encoder on this machine ({place}), budget {facts['limit_ms']:g} ms\n"
        f"  predicted: student {predicted['student']:.2f} ms, teacher {predicted['teacher']:.2f} ms\n"
        f"  measured:  {', '.join(figures)}; {ratio['ratio']:.2f}× ({spread}) as fast"
    )


# Minutes and memory of a run


def time_run(
    values: Mapping[str, Any], log: Log, *, num_steps: int = NUM_STEPS, num_tokens: float | None = None
) -> dict[str, Any]:
    """Take some steps of a run, and estimate the whole of it; only tokenized text stays, in the cache.

    The steps are of the run itself: its text, its batches, its teacher and its student, pruned along the same curve in
    fewer steps. So they are as wide on average as those of the whole run. Masks are chosen more often; the time that a
    choice takes counts as often as the run makes one.

    Args:
        values: settings of the run by name, as the JSON file of `homodistil distill` holds them; without `output_dir`.
        log: takes lines for the user.
        num_steps: steps to take, ≥ 3.
        num_tokens: of the whole run, at full rows. Default: as long as `values` make it.

    Returns:
        `num_steps`: of the whole run; `seconds_per_step`, `setup_s` (reading, tokenizing, loading, scoring), `time_s`:
        of the whole run without evaluations; `peak_bytes`; `device`; `num_tokens`: that it reads, at full rows;
        `student`: its [`WidthPlan`], which is the method's.

    Raises:
        ValueError: as the run itself; a list of students.
    """
    from ..training.progress import ShortProgress
    from ..training_args import with_settings
    from .config import run_of
    from .student import make_trainer

    since = time.perf_counter()
    with TemporaryDirectory() as folder:
        settings = run_of({**values, **_STEPS_ALONE, "output_dir": folder}, "the planned run")
        if settings.members:
            raise ValueError(f"student={values['student']!r} is several students; time one of them, such as the last")
        trainer = make_trainer(settings, log)
        length = trainer.rows_facts.get("max_seq_length", settings.run.row_length)
        of_step = trainer.args.rows_per_step * length
        if num_tokens is None:
            *_, planned = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
        else:
            planned = max(1, round(num_tokens / of_step))
        choices = num_choices(trainer, planned)
        # so few steps, along the same curve
        shortened = {"max_steps": min(num_steps, planned), "disable_tqdm": True, "logging_strategy": "no"}
        shortened |= {"pruning_interval_steps": 1} if hasattr(trainer.args, "pruning_interval_steps") else {}
        trainer.args = with_settings(trainer.args, **shortened)
        trainer.remove_callback(ShortProgress)
        begin_step, begins, choosing = trainer.begin_step, [], []

        def timed_begin() -> None:
            begins.append(time.perf_counter())
            begin_step()
            choosing.append(time.perf_counter() - begins[-1])

        trainer.begin_step = timed_begin
        began = time.perf_counter()
        trainer.train()
        begins.append(time.perf_counter())
    if len(choosing) < 3:
        raise ValueError(f"max_steps={planned} is too short a run to be timed; expected at least 3")
    taken = num_choices(trainer, trainer.args.max_steps)
    # the mean of the steps behind the first, with as many choices of masks as the whole run makes
    choosing_s = sum(choosing[1:])
    alone = (begins[-1] - begins[1] - choosing_s) / (len(choosing) - 1)
    seconds = alone + choosing_s / max(1, taken) * choices / planned
    # what the first step took beyond a usual one is part of the setup
    setup_s = began - since + max(0.0, begins[1] - began - seconds)
    return {
        "num_steps": planned,
        "rows_per_step": trainer.args.rows_per_step,
        "num_tokens": planned * of_step,
        "seconds_per_step": seconds,
        "setup_s": setup_s,
        "time_s": setup_s + planned * seconds,
        "peak_bytes": peak_bytes(trainer.args.device),
        "device": str(trainer.args.device),
        "student": trainer.plan,
    }


def num_choices(trainer: Any, num_steps: int) -> int:
    """How often a run of so many steps chooses masks behind its first step; 0 of a method that prunes nothing."""
    from ..trainer import HomoDistilTrainer

    if not isinstance(trainer, HomoDistilTrainer):
        return 0
    schedule = trainer.args.pruning_schedule(num_steps)
    return sum(map(schedule.is_due, range(1, math.ceil(schedule.end_step) + 1)))


def peak_bytes(device: torch.device) -> int | None:
    """The most memory so far: of tensors on a GPU, else of this process; None where it isn't known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # bytes on macOS, kibibytes elsewhere
    return peak if sys.platform == "darwin" else 1024 * peak


def format_timing(timing: Mapping[str, Any]) -> str:
    """Describe what the whole run takes."""
    peak, seconds = timing["peak_bytes"], timing["time_s"]
    whole = f"{seconds / 60:.0f} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"
    if seconds < 90:
        whole = f"{seconds:.0f} seconds"
    memory = "" if peak is None else f"\n  memory peak {peak / 1e9:.1f} GB"
    return (
        f"on this machine ({timing['device']}), by some steps of the run:\n  {timing['num_steps']:,} steps of "
        f"{timing['rows_per_step']:,} rows take {whole}, without evaluations: "
        f"{timing['seconds_per_step']:.2g} s a step and {timing['setup_s']:.0f} s before the first{memory}"
    )
