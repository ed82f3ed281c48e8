"""The family of a run: students on the way to the last one, named, checked and put in order.

What the user gave becomes plans that lie on one way from the teacher to the student, from wide to narrow, or is
refused. How one plan is read, when widths fall and what happens at a snapshot isn't here.
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from transformers import PreTrainedConfig

from ..files.messages import shown
from ..models.cost import encoder_macs
from ..models.widths import LayerWidths, WidthPlan, teacher_plan
from .presets import PRESETS
from .resolve import resolve_plan

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_BUDGET = re.compile(r"\s*(\w+)\s*=\s*(.+?)\s*")
_LONGEST_NAME = 60


@dataclass(frozen=True)
class Snapshot:
    """A student on the way.

    Args:
        name: of its folder: letters, digits, `.`, `_` and `-`.
        given: what the user wrote.
        plan: its widths.
    """

    name: str
    given: str
    plan: WidthPlan


def resolve_snapshots(
    snapshots: Sequence[str], config: PreTrainedConfig, target: WidthPlan, *, multiple: int = 8
) -> tuple[Snapshot, ...]:
    """Turn what the user calls the snapshots into plans that a run passes through one after the other.

    Args:
        snapshots: each a preset, a budget, a plan file or a plan as JSON text, see [`resolve_plan`]; in any order.
        config: the teacher's.
        target: the student's widths.
        multiple: as for [`resolve_plan`].

    Returns:
        `tuple[Snapshot, ...]`, from wide to narrow; names differ.

    Raises:
        ValueError: one is no possible student of this teacher, or no width of it may be met on a way on which every
            width only falls; the message names the width and the nearest valid plan.

    Example:
    ```python
    >>> from transformers import BertConfig
    >>> family = resolve_snapshots(["macs=0.25", "homobert-base"], BertConfig(), PRESETS["homobert-tiny"])
    >>> [(snapshot.name, snapshot.plan.hidden_size) for snapshot in family]
    [('homobert-base', 576), ('macs-0.25', 432)]

    ```
    """
    teacher = teacher_plan(config)
    plans = [(given, _resolved(given, config, multiple)) for given in snapshots]
    plans.sort(key=lambda entry: encoder_macs(entry[1]), reverse=True)
    stations = [("the teacher", teacher), *((f"snapshots {shown(given)}", plan) for given, plan in plans)]
    for (_, plan), (label, _) in zip(plans, stations[1:], strict=True):
        _check_on_the_way(plan, label, wider=stations[0], narrower=("the student", target))
    for wider, (label, plan) in pairwise(stations):
        _check_on_the_way(plan, label, wider=wider, narrower=("the student", target))
    names: list[str] = []
    for given, plan in plans:
        names.append(_unique(_name(given, plan), names))
    return tuple(Snapshot(name, given, plan) for name, (given, plan) in zip(names, plans, strict=True))


def _resolved(given: str, config: PreTrainedConfig, multiple: int) -> WidthPlan:
    budget = _BUDGET.fullmatch(given)
    if budget is not None and budget[1] == "latency_ms":
        raise ValueError(
            f"snapshots {shown(given)} is measured, and a resumed run would measure anew; name a plan, params=… or "
            f"macs=…; homodistil plan --student {given.strip()} shows the plan"
        )
    try:
        return resolve_plan(given, config, multiple=multiple)
    except ValueError as error:
        raise ValueError(f"snapshots: {error}") from error


def _check_on_the_way(
    plan: WidthPlan, label: str, *, wider: tuple[str, WidthPlan], narrower: tuple[str, WidthPlan]
) -> None:
    for (name, limit), compares, word in ((wider, int.__gt__, "wider"), (narrower, int.__lt__, "narrower")):
        if plan == limit:
            raise ValueError(f"{label} has the widths of {name}; drop one of them")
        if misfit := _misfit(plan, limit, compares):
            raise ValueError(
                f"{label} has {misfit[0]}, {word} than {name} with {misfit[1]}; from the teacher to the student every "
                f"width only falls; nearest valid plan: {_nearest(plan, narrower[1], wider[1]).to_json()}"
            )


def _misfit(plan: WidthPlan, limit: WidthPlan, compares: Callable[[int, int], bool]) -> tuple[str, int] | None:
    """The first width that compares with its limit, as text, and the limit."""
    for name, width, bound in _widths(plan, limit):
        if compares(width, bound):
            return name.format(width), bound
    return None


def _widths(plan: WidthPlan, limit: WidthPlan) -> Iterator[tuple[str, int, int]]:
    yield "hidden_size={}", plan.hidden_size, limit.hidden_size
    for index, (layer, bounds) in enumerate(zip(plan.layers, limit.layers, strict=True)):
        where = "" if plan.is_uniform and limit.is_uniform else f" in layer {index}"
        for name, width in dataclasses.asdict(layer).items():
            yield f"{name}={{}}{where}", width, getattr(bounds, name)


def _nearest(plan: WidthPlan, narrower: WidthPlan, wider: WidthPlan) -> WidthPlan:
    """The plan with every width brought between two others, of the smallest hidden size that stock BERT can hold."""

    def between(width: int, low: int, high: int) -> int:
        return min(max(width, low), high)

    layers = tuple(
        LayerWidths(*map(between, *map(dataclasses.astuple, widths)))
        for widths in zip(plan.layers, narrower.layers, wider.layers, strict=True)
    )
    smallest = between(plan.hidden_size, narrower.hidden_size, wider.hidden_size)
    candidates = (WidthPlan(size, layers) for size in range(smallest, wider.hidden_size + 1))
    return next(filter(_can_be_padded, candidates), wider)


def _can_be_padded(plan: WidthPlan) -> bool:
    try:
        plan.padded()
    except ValueError:
        return False
    return True


def _name(given: str, plan: WidthPlan) -> str:
    """A short name that is safe as that of a folder."""
    text = given.strip()
    if text in PRESETS:
        return text
    if text.startswith("{"):
        if not plan.is_uniform:
            return "widths-" + hashlib.sha256(plan.to_json().encode()).hexdigest()[:8]
        layer = plan.layers[0]
        heads = f"{layer.num_attention_heads}x{layer.head_dim}"
        return f"hidden-{plan.hidden_size}-heads-{heads}-ffn-{layer.intermediate_size}"
    budget = _BUDGET.fullmatch(text)
    words = f"{budget[1]}-{budget[2]}" if budget and not text.endswith(".json") else Path(text).stem
    return _UNSAFE.sub("-", words).strip(".-")[:_LONGEST_NAME] or "snapshot"


def _unique(name: str, taken: Sequence[str]) -> str:
    folded = {other.casefold() for other in taken}  # some file systems know no case
    numbered = (name if number == 1 else f"{name}-{number}" for number in range(1, len(taken) + 2))
    return next(candidate for candidate in numbered if candidate.casefold() not in folded)
