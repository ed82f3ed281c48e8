"""`homodistil plan`: how wide a student will be and what it costs."""

import argparse
import json
from collections.abc import Iterator
from typing import Any

from .parsing import add_command, show_logs


def add_plan(commands: Any) -> None:
    """Add the command.

    Args:
        commands: what `add_subparsers` made.
    """
    parser = add_command(
        commands,
        "plan",
        _plan,
        help="say how wide a student will be and what it costs, from the teacher's configuration alone",
        example="homodistil plan --teacher google-bert/bert-base-uncased --student macs=0.25",
    )
    parser.add_argument("--teacher", required=True, help="Hub name or folder of a BERT model")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument(
        "--student",
        help="preset, budget (params=14M, macs=0.25, either with ,num_attention_heads=8 or ,hidden_size=216 behind "
        "it), short plan (216-9x24-528), JSON file or JSON object",
    )
    asked.add_argument("--latency_ms", type=float, help="milliseconds of a forward pass on this machine, no head")
    parser.add_argument("--batch_size", type=int, help="latency_ms: sequences a forward pass (default: 1)")
    parser.add_argument("--length", type=int, help="latency_ms: tokens a sequence (default: 128)")
    parser.add_argument("--backend", help="latency_ms: torch (default) or onnxruntime")
    parser.add_argument("--no_measurement", action="store_true", help="latency_ms: don't time the chosen plan itself")
    parser.add_argument("--num_tokens", type=float, help="to train on, e.g. 2e6: what was measured of such a budget")
    parser.add_argument("--teacher_revision", help="branch, tag or commit on the Hub")
    parser.add_argument(
        "--width_multiple", type=int, default=8, help="budgets: round widths to multiples (default: 8)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def _plan(flags: argparse.Namespace) -> int:
    from ..models.cost import cost_fractions, planned_facts
    from ..models.loading import load_teacher_config
    from ..plans.advice import check_num_tokens
    from ..plans.resolve import resolve_plan

    if flags.num_tokens is not None:
        check_num_tokens(flags.num_tokens)
    config = load_teacher_config(flags.teacher, revision=flags.teacher_revision)
    latency = _planned_latency(flags, config)
    plan = latency["plan"] if latency else resolve_plan(flags.student, config, multiple=flags.width_multiple)
    architecture = config.architectures[0]
    costs: dict[str, dict[str, Any]] = {
        "teacher": planned_facts(config, architecture),
        "student": planned_facts(config, architecture, plan),
        "padded": planned_facts(config, architecture, plan.padded()),
    }
    costs["cost_fractions"] = cost_fractions(costs["student"], costs["teacher"])
    if latency:
        costs["latency"] = latency["facts"]
    advice = None if flags.num_tokens is None else _advice(costs["cost_fractions"], flags.num_tokens)
    if flags.json:
        print(json.dumps(costs if advice is None else costs | {"advice": advice}, indent=2))
        return 0
    print("\n\n".join(_paragraphs(costs, advice)))
    return 0


def _paragraphs(costs: dict[str, dict[str, Any]], advice: str | None) -> Iterator[str]:
    from ..evaluation.latency_layout import format_planned_latency
    from ..tables import format_plan

    yield format_plan(costs)
    if "latency" in costs:
        yield format_planned_latency(costs["latency"])
    if advice:
        yield advice


def _advice(fractions: dict[str, Any], num_tokens: float) -> str:
    from ..plans.advice import advise, read_advice

    teacher, measured = read_advice()
    return advise(fractions["encoder_macs"], num_tokens, measured=measured, teacher=teacher)


def _planned_latency(flags: argparse.Namespace, config: Any) -> dict[str, Any]:
    """The plan for `--latency_ms` and what is known of its latency; empty for any other student."""
    from ..plans.latency.budget import LATENCY_BUDGET, LatencyBudget, is_latency_budget, measure_plan, plan_within

    conditions = {name: getattr(flags, name) for name in ("batch_size", "length", "backend")}
    given = {name: value for name, value in conditions.items() if value is not None}
    if flags.latency_ms is None and (given or flags.no_measurement):
        name = next(iter(given), "no_measurement")
        raise ValueError(f"--{name} says how a latency is measured; give --latency_ms with it")
    student = flags.student
    if flags.latency_ms is not None:
        student = ",".join(f"{name}={value}" for name, value in {LATENCY_BUDGET: flags.latency_ms, **given}.items())
    if not is_latency_budget(student):
        return {}
    show_logs()
    budget = LatencyBudget.parse(student)
    found = plan_within(budget, config, multiple=flags.width_multiple)
    facts = found.facts(budget)
    if not flags.no_measurement:
        facts["measured"] = measure_plan(found.plan, config, budget.conditions)
    return {"plan": found.plan, "facts": facts}
