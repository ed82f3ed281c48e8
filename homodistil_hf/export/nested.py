"""The members of a nested student in the folder of its largest one: written, and read back as models of their own.

The folder is an export of the largest member, for any library. `nested.json` names all members with their widths,
`nested.safetensors` holds what a smaller one has besides the first units of the largest.
"""

import copy
import functools
import logging
import math
import statistics
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from ..files.messages import short_repr
from ..files.strict_json import fits, read_json_object, write_json
from ..files.tensors import load_tensors
from ..models.architectures import architecture_of
from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.conversion import to_stock, to_student
from ..models.cost import encoder_macs
from ..models.units import encoder_groups
from ..models.widths import WidthPlan, of_architecture, widest_of, widths_of
from ..plans.budgets import WIDTH_MULTIPLE, is_latency_budget, parse_budget, share_as_budget
from ..plans.resolve import member_folder
from ..pruning.compaction import compact, remove_padding
from ..pruning.masks import first_units
from ..pruning.nested import move_units
from .facts import BENCHMARKS, LATENCY, SIZES, probe_inputs, section_of

logger = logging.getLogger(__name__)

NESTED_FILE, NESTED_WEIGHTS_FILE = "nested.json", "nested.safetensors"
UNTRAINED = "not trained itself: one of the run's sizes with narrower FFNs; its held-out metrics are not known"
_NUM_PROBED = 64
_STEPS = 16
"""Sizes between two members that a latency budget chooses from."""
_SHAPE = {
    "members": [{"name": str, "plan": dict, "evaluation": dict, "tensors": [str], "probe": [float]}],
    "rotary": {"rotary_pairs": dict | None, "rotary_head_dim": int | None},
    "whole_macs": int,
}


@dataclass(frozen=True)
class NestedMember:
    """One size of a nested student.

    Args:
        name: as users call it, such as `macs=0.25`.
        plan: its widths.
        evaluation: its held-out metrics.
        tensors: by name, what it has besides the first units of the largest.
        is_trained: False for a size between two that were.
    """

    name: str
    plan: WidthPlan
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    is_trained: bool = True


def member_name(student: str) -> str:
    """Return the name of a nested student's member: its budget, its widths, or the name of its file without folders.

    Example:
    ```python
    >>> member_name("plans/half.json")
    'half'
    >>> member_name("macs=0.5"), member_name('{"hidden_size": 216, "num_attention_heads": 9, "intermediate_size": 8}')
    ('macs=0.5', 'hidden_size-216-num_attention_heads-9-intermediate_size-8')

    ```
    """
    is_written = student.strip().startswith("{") or student.endswith(".json")
    return member_folder(0, student)[2:] if is_written else student.strip()


def write_nested(
    folder: Path,
    student: LayerwiseModel,
    members: Sequence[NestedMember],
    *,
    whole: WidthPlan,
    probes: Sequence[Sequence[float]],
) -> None:
    """Write the members of a nested student beside its largest one.

    Args:
        folder: the largest's export.
        student: the largest.
        members: all of them, the largest first.
        whole: widths that the student began with: shares are of their MACs.
        probes: [`probe_states`] of the smaller members, as they were trained.
    """
    rows = [
        {
            "name": one.name,
            "plan": one.plan.to_dict(),
            "evaluation": dict(one.evaluation),
            "tensors": sorted(one.tensors),
            "probe": [*probe],
        }
        for one, probe in zip(members, [[], *probes], strict=True)
    ]
    rotary = {name: getattr(student.config, name, None) for name in ("rotary_pairs", "rotary_head_dim")}
    write_json(folder / NESTED_FILE, {"members": rows, "rotary": rotary, "whole_macs": encoder_macs(whole)})
    tensors = {f"{one.name}/{name}": values for one in members for name, values in one.tensors.items()}
    if tensors:
        contiguous = {name: values.detach().cpu().contiguous() for name, values in tensors.items()}
        save_file(contiguous, folder / NESTED_WEIGHTS_FILE)


@torch.no_grad()
def probe_states(encoder: Any) -> list[float]:
    """Evenly picked values of an encoder's last states on [`probe_inputs`], 64 at most; any head is left out.

    The encoder is on the CPU and in evaluation mode: another device rounds otherwise.
    """
    states = encoder.base_model(**probe_inputs(encoder.config)).last_hidden_state.flatten()
    found: list[float] = states[torch.linspace(0, len(states) - 1, min(_NUM_PROBED, len(states))).long()].tolist()
    return found


def member_probes(folder: str | Path) -> dict[str, list[float]]:
    """Name of each smaller member in a folder → its probe."""
    return {row["name"]: row["probe"] for row in _read_table(folder)["members"][1:]}


def member_names(folder: str | Path) -> list[str]:
    """The names of the members in a folder, the largest first."""
    return [row["name"] for row in _read_table(folder)["members"]]


def _read_table(folder: str | Path) -> dict[str, Any]:
    file = Path(folder, NESTED_FILE)
    if not file.is_file():
        raise ValueError(
            f"folder={str(folder)!r} has no {NESTED_FILE}, so it holds one size alone; name the student of a run with "
            "nested=True"
        )
    table = read_json_object(file, str(file))
    if not fits(table, _SHAPE) or not table["members"]:
        raise ValueError(f"{file} holds no table of members; export the nested student again")
    return table


def read_nested(folder: str | Path, model: PreTrainedModel) -> tuple[LayerwiseModel, list[NestedMember], int]:
    """Read a nested student.

    Args:
        folder: that [`write_nested`] wrote into.
        model: the largest member, as its folder is loaded.

    Returns:
        `(student, members, whole_macs)`: the largest as a student whose first units are the others; all members;
        and the encoder MACs that shares are of.

    Raises:
        ValueError: the folder holds no nested student, another file than is written, or one of its files is missing.
    """
    table, student = _read_table(folder), to_student(model, needs_head=False, argument="folder")
    pairs, has_free_heads = table["rotary"]["rotary_pairs"], architecture_of(student.config).has_free_heads
    if pairs and has_free_heads:  # its configuration names frequencies, in the order of the channels
        student.config.rotary_pairs, student.config.rotary_head_dim = pairs, table["rotary"]["rotary_head_dim"]
        student.config.leave_stock_frequencies()
        student.set_shared_widths()
    own = widths_of(student.config)
    file = Path(folder, NESTED_WEIGHTS_FILE)
    tensors = load_tensors(file) if file.is_file() else {}
    members = []
    for row in table["members"]:
        plan, prefix = of_architecture(WidthPlan.from_dict(row["plan"], len(own.layers)), own), f"{row['name']}/"
        named = {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}
        if missing := sorted(set(row["tensors"]) - named.keys()):
            raise ValueError(
                f"{file} lacks {', '.join(missing)} of {row['name']}, which {NESTED_FILE} lists: copy the "
                "whole folder, or export the nested student again"
            )
        if widest_of(plan, own) != own:
            raise ValueError(
                f"{Path(folder, NESTED_FILE)}: {row['name']} is wider than the weights beside it, {own.to_json()}; "
                "copy the whole folder, or export the nested student again"
            )
        members.append(NestedMember(row["name"], plan, row["evaluation"], named))
    if members[0].plan != own:
        remove_padding(student, members[0].plan)
    if pairs and not has_free_heads:  # a stock class has pairs in their places: back into the order of the units
        now = student.config.rotary_pairs or {}
        orders = {
            f"query_key.{kind}": torch.tensor([now.get(kind, sorted(order)).index(pair) for pair in order])
            for kind, order in pairs.items()
        }
        move_units(student, encoder_groups(student), orders)
    return student.eval(), members, table["whole_macs"]


def find_member(
    student: LayerwiseModel, members: Sequence[NestedMember], wanted: Any, *, whole_macs: int
) -> NestedMember:
    """Find a member, or a size between two, which was not trained: a member with narrower FFNs.

    With hidden size, heads and map of the larger member, such a size ends between both. Neurons that the smaller one
    was not trained with make that one worse, and other widths of as many MACs end farther from the teacher.

    Args:
        student: the largest member.
        members: all of them.
        wanted: a member's name; a share of encoder MACs, such as 0.4 or "2/5"; or a latency budget such as
            "latency_ms=5", for the largest size that is so fast on this machine.
        whole_macs: what shares are of.

    Raises:
        ValueError: there is no such size; the message names those that there are.
    """
    wanted = share_as_budget(wanted)
    if is_latency_budget(wanted):
        found = _fast_enough(student, members, wanted)
    elif named := [one for one in members if _names(wanted, one)]:
        found = named[0]
    else:
        found = _of_macs(members, wanted, whole_macs)
    if not found.is_trained:
        logger.warning("%s was not trained: it is cut out of a larger size, widths %s", wanted, found.plan.to_json())
        found = replace(found, name=wanted)
    return found


def _names(wanted: Any, member: NestedMember) -> bool:
    if isinstance(wanted, str) and member_name(wanted) == member.name:
        return True
    share = _share_of_macs(wanted)  # the same one may be written otherwise
    return share is not None and share == _share_of_macs(member.name)


def _share_of_macs(text: Any) -> float | None:
    """The share of `macs=0.25`, or `macs=.25`; None of anything else."""
    try:
        budget = parse_budget(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return budget.target if budget is not None and budget.kind == "macs" and not budget.named else None


def _of_macs(members: Sequence[NestedMember], wanted: Any, whole_macs: int) -> NestedMember:
    """The size between two members that has a share of MACs."""
    given = _share_of_macs(wanted)
    ranges = []
    for larger, smaller in pairwise(members):
        least, most = (encoder_macs(_between(larger, smaller, share).plan) / whole_macs for share in (0, 1))
        if given == most:
            return larger
        if given is not None and least <= given < most:
            return _between(larger, smaller, (given - least) / (most - least))
        first, last = math.ceil(1e3 * least) / 1e3, math.floor(1e3 * most) / 1e3
        if first < last:  # else sizes are alike in their FFNs
            ranges.append(f"a share from macs={first:g} to {last:g}")
    raise ValueError(
        f"member={short_repr(wanted)} is none of the nested student's: {', '.join(one.name for one in members)}; "
        f"nearest valid: one of these, {''.join(f'{one}, ' for one in ranges)}or "
        "'latency_ms=5' for the largest that is so fast here"
    )


def _between(larger: NestedMember, smaller: NestedMember, share: float) -> NestedMember:
    """The larger of two members with narrower FFNs: the smaller's and a share of what they lack."""
    layers = []
    for wide, narrow in zip(larger.plan.layers, smaller.plan.layers, strict=True):
        lacking = share * (wide.intermediate_size - narrow.intermediate_size)
        more = lacking if share == 1 else lacking // WIDTH_MULTIPLE * WIDTH_MULTIPLE
        layers.append(replace(wide, intermediate_size=narrow.intermediate_size + int(more)))
    return replace(larger, plan=replace(larger.plan, layers=tuple(layers)), evaluation={}, is_trained=False)


def _fast_enough(student: LayerwiseModel, members: Sequence[NestedMember], wanted: str) -> NestedMember:
    """The largest size within a latency budget, also one between two members."""
    from ..plans.latency import LatencyBudget, model_times  # times models, which other sizes needn't wait for

    budget = LatencyBudget.parse(wanted, argument="member").on(student.config)
    logger.info("timing some sizes for %s", wanted)

    @functools.cache
    def measure(plan: WidthPlan) -> float:
        model = to_stock(cut_to(copy.deepcopy(student), plan)).eval()
        return statistics.median(model_times({"size": model}, budget, num_rounds=11, num_warmup=1)["size"])

    fast = next((number for number, one in enumerate(members) if measure(one.plan) <= budget.limit_ms), None)
    if fast is None:
        raise ValueError(
            f"member={wanted!r}: the smallest size, {members[-1].name}, takes {measure(members[-1].plan):.3g} ms on "
            "this machine; name more, or train a smaller size"
        )
    found = members[fast]
    if fast > 0:
        between = [_between(members[fast - 1], found, step / _STEPS) for step in range(_STEPS)]
        num_fast = bisect_right(between, budget.limit_ms, key=lambda size: measure(size.plan))
        found = between[num_fast - 1] if num_fast else found
    what = found.name if found.is_trained else f"a size between {members[fast - 1].name} and {members[fast].name}"
    logger.info("%s: %s takes %.3g ms on this machine", wanted, what, measure(found.plan))
    return found


def cut_to(student: LayerwiseModel, plan: WidthPlan) -> LayerwiseModel:
    """Cut a nested student to its first units, as many as a plan has, in place; return it."""
    groups = encoder_groups(student)
    compact(student, groups, first_units(groups, plan), plan=plan)
    return student


def of_member(run: Mapping[str, Any], member: NestedMember) -> dict[str, Any]:
    """A run's sections of the facts of a nested student, for an export of one member: with its metrics, without times.

    Benchmarks, times and shares of what was kept are the largest's.
    """
    kept = {name: section for name, section in run.items() if name not in (BENCHMARKS, LATENCY, SIZES)}
    training = section_of(run, "training")
    kept["training"] = {name: value for name, value in training.items() if not name.startswith("kept_fraction")}
    if not member.is_trained:
        kept["training"]["this_size"] = UNTRAINED
    return kept | {"evaluation": dict(member.evaluation)}
