"""A student's widths from a preset, a budget or a written plan, checked against its teacher; and a family's, in order.

`resolve_plan` turns the user's `student` into a `WidthPlan` before any weight is loaded, or refuses it with the
nearest valid plan. `check_family` refuses a list of students in which one can't be made from the one before.
budgets.py and latency.py search for the plan of a budget, pruning/ prunes a model to it, and
runs/distill.py trains a list of students.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig

from ..files.messages import near_name, short_repr
from ..files.strict_json import parse_json, read_json
from ..models.architectures import architecture_of
from ..models.widths import (
    DEPTH_KEY,
    UNIFORM_KEYS,
    LayerWidths,
    WidthPlan,
    narrowest,
    nearest_multiples,
    nearest_paddable,
    of_architecture,
    widths_of,
    with_embedding,
)
from .budgets import WIDTH_MULTIPLE, is_latency_budget, plan_for_budget, share_as_budget

if TYPE_CHECKING:
    from .latency import LatencyBudget

# The shapes are inferred from the parameter counts that HomoDistil (arXiv 2302.09632) states for BERT-base.
PRESETS = {
    "homobert-base": WidthPlan.uniform(576, 12, LayerWidths(12, 48, 2304)),
    "homobert-small": WidthPlan.uniform(256, 12, LayerWidths(8, 32, 1024)),
    "homobert-xsmall": WidthPlan.uniform(240, 12, LayerWidths(12, 20, 960)),
    "homobert-tiny": WidthPlan.uniform(224, 12, LayerWidths(8, 28, 896)),
}
_SHORT_PLAN = re.compile(r"\s*(?:(\d{1,6})x)?(\d{1,6})-(\d{1,6})x(\d{1,6})-(\d{1,6})\s*", re.ASCII)
_KINDS_OF_STUDENT = (
    f"a student is a preset ({', '.join(PRESETS)}), a budget such as 'params=14M', 'macs=0.25' or 'latency_ms=5', "
    "a JSON file, or a plan such as '192-8x24-704', '4x192-8x24-704' of fewer layers, or "
    + PRESETS["homobert-tiny"].to_json()
)

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME = 60


def resolve_plan(
    student: str | float | Mapping[str, Any],
    teacher_config: PreTrainedConfig,
    *,
    multiple: int = WIDTH_MULTIPLE,
    within: WidthPlan | None = None,
    measure: Callable[[LatencyBudget], WidthPlan] | None = None,
    plain: bool = False,
    fewer_layers_below: int = 0,
) -> WidthPlan:
    """Turn a user's `student` into widths that its teacher can be pruned to.

    Args:
        student (`str`, `float` or `Mapping[str, Any]`):
            - a preset's name: `"homobert-tiny"`;
            - `"params=14M"`: parameters of embeddings and encoder, with suffixes k, M, B;
            - `"macs=0.25"`: a share of the teacher's encoder MACs at 128 tokens; so are `0.25`, `"25%"` and `"1/4"`;
            - `"compact_macs=0.25"`: the same share, with attention narrower than the hidden size. Only the compact
              export keeps that; a standard one pads it;
            - any of these three budgets with `",num_attention_heads=8"`, `",hidden_size=216"` or `",layers=4"`
              behind it;
            - `"latency_ms=5"`: on this machine, see `LatencyBudget.parse`;
            - `"192-8x24-704"`: hidden size, heads × head size and FFN size of every layer; `"4x192-8x24-704"`: of
              4 layers, where the teacher has more;
            - a JSON file, JSON text that begins with `{`, or a mapping, as `WidthPlan.from_dict` reads it.
        teacher_config (`PreTrainedConfig`): Configuration of a teacher of any supported architecture.
        multiple (`int`): For budgets, hidden size and FFN size are multiples of this number, at least 1.
        within (`WidthPlan`, *optional*): For budgets of parameters and MACs, widths that the plan may not exceed. In a
            chain of students: the previous student's widths.
        measure (`Callable[[LatencyBudget], WidthPlan]`): Finds the plan of a latency budget. Default: the plan of
            `plan_within` for this teacher.
        plain (`bool`): Keep the teacher's hidden size, so that what is trained on top of its hidden states
            (heads, poolers, adapters) fits the student unchanged.
        fewer_layers_below (`int`): The hidden size below which a budget of MACs leaves layers out, as
            `plan_for_budget` has it. Training takes its method's, `HomoDistilTrainer.fewer_layers_below`.

    Returns:
        `WidthPlan`: One entry for each of the student's layers, which may be fewer than the teacher's, nowhere wider
        than the teacher.

    Raises:
        ValueError: `student` is not understood, or this teacher can't have such a student; the message names the
            nearest valid one.

    Example:
    ```python
    >>> from transformers import BertConfig
    >>> resolve_plan("params=14M", BertConfig()) == PRESETS["homobert-tiny"]
    True
    >>> resolve_plan("macs=0.25", BertConfig()).to_dict()
    {'hidden_size': 480, 'num_attention_heads': 10, 'head_dim': 48, 'intermediate_size': 808}

    ```
    """
    teacher, student = widths_of(teacher_config), share_as_budget(student)
    # a short plan becomes the mapping that it stands for, without a number of layers where it names none
    if isinstance(student, str) and (short := _SHORT_PLAN.fullmatch(student)):
        keys = (DEPTH_KEY, *UNIFORM_KEYS)
        student = {key: int(number) for key, number in zip(keys, short.groups(), strict=True) if number}
    if isinstance(student, str) and is_latency_budget(student):
        from .latency import LatencyBudget, plan_within  # builds models, which other plans needn't wait for

        budget = LatencyBudget.parse(student)
        plan = measure(budget) if measure else plan_within(budget, teacher_config, multiple=multiple, plain=plain)[0]
    elif isinstance(student, str) and "=" in student and not _is_json_text(student) and not student.endswith(".json"):
        settings: Any = {"multiple": multiple, "within": within, "plain": plain}
        plan = plan_for_budget(student, teacher_config, **settings, fewer_layers_below=fewer_layers_below)
    else:
        preset = PRESETS.get(student) if isinstance(student, str) else None
        plan = preset or WidthPlan.from_dict(_written_plan(student), len(teacher.layers))
        plan = of_architecture(plan, teacher)
        check_plan(plan, teacher)
    if plain and plan.hidden_size != teacher.hidden_size:
        whole = dataclasses.replace(plan, hidden_size=teacher.hidden_size)
        raise ValueError(
            f"student hidden_size={plan.hidden_size} is not the teacher's {teacher.hidden_size}, which plain students "
            f"keep; nearest valid plan: {whole.to_json(of_layers=len(teacher.layers))}, or leave plain out"
        )
    plan = with_embedding(plan, teacher, multiple=multiple)
    _check_shared_groups(plan, teacher_config)
    return plan


def _check_shared_groups(plan: WidthPlan, config: PreTrainedConfig) -> None:
    """Refuse embedding sizes and uneven heads that the architecture's classes can't have."""
    architecture, shared = architecture_of(config), plan.traits.queries_per_key
    if other := next((layer for layer in plan.layers if layer.num_attention_heads % shared), None):
        raise ValueError(
            f"student num_attention_heads={other.num_attention_heads}, but {shared} heads of this teacher share a key "
            f"and leave together; nearest valid: {nearest_multiples(other.num_attention_heads, shared)}"
        )
    if plan.embedding_size is not None:
        if architecture.embedding_size(config) is None:
            raise ValueError(
                f"student embedding_size={plan.embedding_size}, but this teacher's embeddings have its hidden size; "
                "leave embedding_size out"
            )
        if plan.embedding_size == plan.hidden_size:
            raise ValueError(
                f"student embedding_size={plan.embedding_size} is its hidden size, for which a stock "
                f"{architecture.encoder.stock_name} leaves the projection between them out; nearest valid: "
                f"{plan.embedding_size - 1}"
            )
    if architecture.shares_heads and len({layer.num_attention_heads for layer in plan.layers}) > 1:
        most = plan.widest.num_attention_heads
        raise ValueError(
            f"student num_attention_heads differ from layer to layer, but all layers of a {architecture.model_type} "
            f"share what a head is; nearest valid: {most} in every layer"
        )


def check_plan(plan: WidthPlan, teacher: WidthPlan) -> None:
    """Refuse a plan that a teacher cannot be pruned to, or that the stock class could not hold."""
    misfit = too_wide(plan, teacher)
    if misfit:
        nearest = nearest_within(plan, teacher).to_json(of_layers=len(teacher.layers))
        raise ValueError(f"student {misfit}; nearest valid plan: {nearest}")
    # head sizes that rotary positions can't have
    whole, kinds = teacher.widest.head_dim, teacher.traits.rotary_kinds
    other = next((layer for layer in plan.layers if layer.head_dim != whole), None)
    if teacher.traits.head_slot and not kinds and other:
        raise ValueError(
            f"student head_dim={other.head_dim}, but this teacher's positions are scaled for whole heads; nearest "
            f"valid: {whole}"
        )
    sizes: dict[str, int] = {}
    if len(plan.layers) < len(kinds):  # which kinds of layers stay is not known yet
        kinds = ("any kind",) * len(plan.layers)
    for kind, layer in zip(kinds, plan.layers, strict=False):
        if layer.head_dim % 2:
            raise ValueError(
                f"student head_dim={layer.head_dim} is odd, but positions turn the channels of heads in pairs; "
                f"nearest valid: {layer.head_dim + 1}"
            )
        # the first layer of a kind sets the size of the others
        if layer.head_dim != sizes.setdefault(kind, layer.head_dim):
            raise ValueError(
                f"student head_dim={layer.head_dim} and {sizes[kind]} among layers of {kind}, which have their "
                f"positions in common; nearest valid: {sizes[kind]} in all of them"
            )
    plan.padded(of_layers=len(teacher.layers))


def too_wide(plan: WidthPlan, limit: WidthPlan, *, whose: str = "its teacher's") -> str | None:
    """Return name and value of a plan's first width above a limit, or the numbers of layers if it has more."""
    if len(plan.layers) > len(limit.layers):
        return f"has {len(plan.layers)} layers, {whose} {len(limit.layers)}"
    if plan.hidden_size > limit.hidden_size:
        return f"hidden_size={plan.hidden_size} is wider than {whose} {limit.hidden_size}"
    # a size that one side lacks is not compared; _check_shared_groups refuses one that the teacher lacks
    if (plan.embedding_size or 0) > (most := limit.embedding_size or plan.embedding_size or 0):
        return f"embedding_size={plan.embedding_size} is wider than {whose} {most}"
    for index, (layer, bounds) in enumerate(zip(plan.layers, _bounds(plan, limit), strict=True)):
        for name, width in dataclasses.asdict(layer).items():
            if width > (bound := getattr(bounds, name)):
                return f"{name}={width} is wider than {whose} {bound} in layer {index}"
    return None


def nearest_within(plan: WidthPlan, limit: WidthPlan) -> WidthPlan:
    """Return a plan with each width cut to its limit, and then to a shape that the stock class can hold."""
    plan = dataclasses.replace(plan, layers=plan.layers[: len(limit.layers)])
    hidden_size = min(plan.hidden_size, limit.hidden_size)
    narrowed = dataclasses.replace(
        plan,
        hidden_size=hidden_size,
        layers=tuple(map(narrowest, plan.layers, _bounds(plan, limit))),
        traits=limit.traits,
    )
    if plan.embedding_size is not None and limit.embedding_size is not None:
        narrowed = dataclasses.replace(narrowed, embedding_size=min(plan.embedding_size, limit.embedding_size))
    return nearest_paddable(narrowed)


def _bounds(plan: WidthPlan, limit: WidthPlan) -> tuple[LayerWidths, ...]:
    """Return the limit of each of a plan's layers; of fewer layers any may stay, so all have the narrowest one's."""
    if len(plan.layers) == len(limit.layers):
        return limit.layers
    return (functools.reduce(narrowest, limit.layers),) * len(plan.layers)


def _is_json_text(student: str) -> bool:
    return student.lstrip().startswith("{")


def _written_plan(student: Any) -> Any:
    if not isinstance(student, str):
        return student
    is_text = _is_json_text(student)
    if not is_text and not os.path.isfile(student):
        near = near_name(student, PRESETS)
        nearest = "" if near is None else f"nearest valid: {near!r}; "
        raise ValueError(f"student={student[:200]!r} is unknown; {nearest}{_KINDS_OF_STUDENT}")
    try:
        return parse_json(student, "the plan") if is_text else read_json(student, "the file")
    except (OSError, ValueError) as error:
        raise ValueError(f"student={short_repr(student)} is no valid JSON ({error}); {_KINDS_OF_STUDENT}") from error


def check_family(students: Sequence[str], plans: Sequence[WidthPlan], teacher: WidthPlan) -> None:
    """Refuse a family if a member equals the one before it or is wider in some width.

    Example:
    ```python
    >>> from homodistil_hf.plans.resolve import PRESETS
    >>> bert_base, names = WidthPlan.uniform(768, 12, LayerWidths(12, 64, 3072)), ["homobert-base", "homobert-tiny"]
    >>> check_family(names, [PRESETS[name] for name in names], bert_base)

    ```
    """
    earlier, limit = "the teacher", teacher
    for student, plan in zip(students, plans, strict=True):
        if plan == limit:
            raise ValueError(f"student {short_repr(student)} has the widths of {earlier} before it; drop one of them")
        if reason := too_wide(plan, limit, whose=f"that of {earlier} before it,"):
            nearest = nearest_within(plan, limit).to_json(of_layers=len(teacher.layers))
            raise ValueError(
                f"student {short_repr(student)} {reason}; each member is made from the one before: list them from "
                f"wide to narrow, or take the nearest valid plan: {nearest}"
            )
        if len(limit.layers) < len(teacher.layers):
            raise ValueError(
                f"student {earlier} has {len(limit.layers)} layers, its teacher has {len(teacher.layers)}; the next "
                "member would start as it, and be compared layer by layer: only the last one may have fewer layers"
            )
        earlier, limit = short_repr(student), plan


def member_folder(number: int, student: str) -> str:
    """Return the name of a member's folder, of letters, digits, `.`, `_` and `-`.

    Example:
    ```python
    >>> member_folder(1, "macs=0.5"), member_folder(2, "216-9x24-528"), member_folder(3, "plans/mine.json")
    ('1-macs-0.5', '2-216-9x24-528', '3-mine')

    ```
    """
    name = Path(student).stem if student.endswith(".json") else student.strip()
    if name.startswith("{"):
        widths = parse_json(name, "the plan")
        if set(widths) == set(UNIFORM_KEYS):  # has a short name
            name = "{}-{}x{}-{}".format(*map(widths.get, UNIFORM_KEYS))
    return f"{number}-{_UNSAFE.sub('-', name).strip('.-')[:_LONGEST_NAME] or 'student'}"
