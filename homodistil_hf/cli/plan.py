"""`homodistil plan`: how wide a student will be and what it costs. How plans and costs are found isn't here."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..tables import format_table
from .parsing import show_logs

_COSTS = ("num_parameters", "num_encoder_parameters", "encoder_macs", "size_bytes")


@dataclass(kw_only=True)
class Plan:
    """Say how wide a student will be and what it costs, from the teacher's configuration alone."""

    example: ClassVar[str] = "homodistil plan --teacher google-bert/bert-base-uncased --student macs=0.25"
    teacher: str = field(metadata={"help": "Hub name or folder of a BERT model"})
    student: str | None = field(
        default=None,
        metadata={
            "help": "this or --latency_ms: preset, budget (params=14M, macs=0.25, either with "
            ",num_attention_heads=8 or ,hidden_size=216 behind it), short plan (216-9x24-528), JSON file or object"
        },
    )
    latency_ms: float | None = field(
        default=None,
        metadata={"help": "this or --student: milliseconds of a forward pass here, no head"},
    )
    batch_size: int | None = field(
        default=None, metadata={"help": "latency_ms: sequences a forward pass (default: 1)"}
    )
    length: int | None = field(default=None, metadata={"help": "latency_ms: tokens a sequence (default: 128)"})
    backend: str | None = field(default=None, metadata={"help": "latency_ms: torch (default) or onnxruntime"})
    no_measurement: bool = field(default=False, metadata={"help": "latency_ms: don't time the chosen plan itself"})
    num_tokens: float | None = field(
        default=None, metadata={"help": "to train on, e.g. 2e6: what was measured of such a budget"}
    )
    teacher_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit on the Hub"})
    width_multiple: int = field(default=8, metadata={"help": "budgets: round widths to multiples (default: 8)"})
    json: bool = field(default=False, metadata={"help": "print JSON for machines"})

    def __post_init__(self) -> None:
        if self.student is None and self.latency_ms is None:
            raise ValueError("one of the arguments --student --latency_ms is required; see homodistil plan --help")
        if self.student is not None and self.latency_ms is not None:
            raise ValueError("argument --latency_ms: not allowed with argument --student; drop one")

    def run(self) -> int:
        """Print the plan."""
        from ..models.cost import cost_fractions, planned_facts
        from ..models.loading import load_teacher_config
        from ..plans.advice import check_num_tokens
        from ..plans.resolve import resolve_plan

        if self.num_tokens is not None:
            check_num_tokens(self.num_tokens)
        config = load_teacher_config(self.teacher, revision=self.teacher_revision)
        latency = _planned_latency(self, config)
        plan = latency["plan"] if latency else resolve_plan(self.student or "", config, multiple=self.width_multiple)
        architecture = config.architectures[0]
        costs: dict[str, dict[str, Any]] = {
            "teacher": planned_facts(config, architecture),
            "student": planned_facts(config, architecture, plan),
            "padded": planned_facts(config, architecture, plan.padded()),
        }
        costs["cost_fractions"] = cost_fractions(costs["student"], costs["teacher"])
        if latency:
            costs["latency"] = latency["facts"]
        advice = None if self.num_tokens is None else _advice(costs["cost_fractions"], self.num_tokens)
        if self.json:
            print(json.dumps(costs if advice is None else costs | {"advice": advice}, indent=2))
            return 0
        print("\n\n".join(_paragraphs(costs, advice)))
        return 0


def _paragraphs(costs: dict[str, dict[str, Any]], advice: str | None) -> Iterator[str]:
    yield format_plan(costs)
    if "latency" in costs:
        yield format_planned_latency(costs["latency"])
    if advice:
        yield advice


def format_plan(costs: Mapping[str, Mapping[str, Any]]) -> str:
    """Tell what a student will be and cost beside its teacher.

    Args:
        costs: `teacher`, `student` and `padded` (the student as a stock BERT), each as [`planned_facts`] has it, and
            `cost_fractions`.

    Returns:
        `str`: lines.
    """
    names = {"teacher": "teacher", "student": "student", "padded": "padded to stock BERT"}
    if costs["padded"]["plan"] == costs["student"]["plan"]:
        del names["padded"]
    widths = [
        f"{name}: {facts['architecture']}, {facts['num_hidden_layers']} layers, {json.dumps(facts['plan'])}"
        for name, facts in costs.items()
        if name in ("teacher", "student")
    ]
    rows = [{"name": label, **{key: costs[name].get(key) for key in _COSTS}} for name, label in names.items()]
    fractions = costs["cost_fractions"]
    shares = (
        f"student / teacher: parameters {fractions['num_parameters']:.3f}, MACs {fractions['encoder_macs']:.3f}\n"
        "(encoder MACs: multiply-accumulates of one token through all layers at length 128; bytes: float32)"
    )
    return "\n".join([*widths, "", format_table(rows), "", shares])


def format_planned_latency(facts: Mapping[str, Any]) -> str:
    """Tell what a plan made for a latency budget takes, predicted and, where it was measured, measured.

    Args:
        facts: `limit_ms`, `conditions`, `predicted_ms`, and maybe `measured`, what [`measure_plan`] returned.

    Returns:
        `str`: lines.
    """
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


def _advice(fractions: dict[str, Any], num_tokens: float) -> str:
    from ..plans.advice import advise, read_advice

    teacher, measured = read_advice()
    return advise(fractions["encoder_macs"], num_tokens, measured=measured, teacher=teacher)


def _planned_latency(flags: Plan, config: Any) -> dict[str, Any]:
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
    budget = LatencyBudget.parse(student)
    found = plan_within(budget, config, multiple=flags.width_multiple)
    facts = found.facts(budget)
    if not flags.no_measurement:
        facts["measured"] = measure_plan(found.plan, config, budget.conditions)
    return {"plan": found.plan, "facts": facts}
