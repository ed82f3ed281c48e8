"""The members of a nested student in the folder of its largest one: written, and read back as models of their own.

The folder is an export of the largest member, for any library. `nested.json` names all members with their widths,
`nested.safetensors` holds what a smaller one has besides the first units of the largest.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from ..models.conversion import to_student
from ..models.cost import encoder_macs
from ..models.units import encoder_groups
from ..models.widths import WidthPlan, of_architecture, widths_of
from ..plans.budgets import share_as_budget
from ..plans.resolve import member_folder, resolve_plan
from ..pruning.compaction import compact, remove_padding
from ..pruning.masks import first_units
from ..pruning.nested import move_units
from .facts import BENCHMARKS, LATENCY, SIZES

logger = logging.getLogger(__name__)

NESTED_FILE, NESTED_WEIGHTS_FILE = "nested.json", "nested.safetensors"
_SHAPE = {
    "members": [{"name": str, "plan": dict, "evaluation": dict}],
    "rotary": {"rotary_pairs": dict | None, "rotary_head_dim": int | None},
}


@dataclass(frozen=True)
class NestedMember:
    """One size of a nested student.

    Args:
        name: as users call it, such as `macs=0.25`.
        plan: its widths.
        evaluation: its held-out metrics.
        tensors: by name, what it has besides the first units of the largest.
    """

    name: str
    plan: WidthPlan
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)


def member_name(student: str) -> str:
    """Return the name of a nested student's member: its budget, or its widths.

    Example:
    ```python
    >>> member_name("macs=0.5"), member_name('{"hidden_size": 216, "num_attention_heads": 9, "intermediate_size": 8}')
    ('macs=0.5', 'hidden_size-216-num_attention_heads-9-intermediate_size-8')

    ```
    """
    return member_folder(0, student)[2:] if student.strip().startswith("{") else student.strip()


def write_nested(folder: Path, student: LayerwiseModel, members: Sequence[NestedMember]) -> None:
    """Write the members of a nested student beside its largest one, `student`, which is the first of them."""
    rows = [{"name": one.name, "plan": one.plan.to_dict(), "evaluation": dict(one.evaluation)} for one in members]
    rotary = {name: getattr(student.config, name, None) for name in ("rotary_pairs", "rotary_head_dim")}
    write_json(folder / NESTED_FILE, {"members": rows, "rotary": rotary})
    tensors = {f"{one.name}/{name}": values for one in members for name, values in one.tensors.items()}
    if tensors:
        contiguous = {name: values.detach().cpu().contiguous() for name, values in tensors.items()}
        save_file(contiguous, folder / NESTED_WEIGHTS_FILE)


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


def read_nested(folder: str | Path, model: PreTrainedModel) -> tuple[LayerwiseModel, list[NestedMember]]:
    """Read a nested student: the largest member as a student whose first units are the others, and all members.

    Args:
        folder: that [`write_nested`] wrote into.
        model: the largest member, as its folder is loaded.

    Raises:
        ValueError: the folder holds no nested student, or another file than is written.
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
    return student.eval(), members


def member_named(members: Sequence[NestedMember], wanted: Any) -> NestedMember:
    """Find a member by its name, or by its share of MACs, such as 0.25 or "1/4"; a ValueError names all."""
    if (found := _member(members, wanted)) is None:
        names = ", ".join(one.name for one in members)
        raise ValueError(f"member={short_repr(wanted)} is none of the nested student's: {names}")
    return found


def _member(members: Sequence[NestedMember], wanted: Any) -> NestedMember | None:
    name = share_as_budget(wanted)
    return next((one for one in members if isinstance(name, str) and one.name == member_name(name)), None)


def member_or_between(
    student: LayerwiseModel, members: Sequence[NestedMember], wanted: Any, *, teacher_macs: int
) -> NestedMember:
    """As [`member_named`]; of a share of MACs between members widths that the planner finds; they weren't trained.

    Args:
        student: the largest member.
        members: all of them.
        wanted: a member's name, or a share of the teacher's encoder MACs, such as 0.35.
        teacher_macs: the teacher's.
    """
    if (found := _member(members, wanted)) is not None:
        return found
    share = re.fullmatch(r"macs=(0?\.\d+)", str(share_as_budget(wanted)))
    most, least = encoder_macs(members[0].plan), encoder_macs(members[-1].plan)
    if share is None or not least < float(share[1]) * teacher_macs < most:
        return member_named(members, wanted)  # which refuses it
    plan = resolve_plan(f"macs={float(share[1]) * teacher_macs / most:.6f}", student.config)
    logger.warning("%s was not trained: it is cut out between members, widths %s", share[0], plan.to_json())
    return NestedMember(share[0], plan)


def cut_to(student: LayerwiseModel, plan: WidthPlan) -> LayerwiseModel:
    """Cut a nested student to its first units, as many as a plan has, in place; return it."""
    groups = encoder_groups(student)
    compact(student, groups, first_units(groups, plan), plan=plan)
    return student


def of_member(run: Mapping[str, Any], member: NestedMember) -> dict[str, Any]:
    """A run's sections of the facts of a nested student, for an export of one member: with its metrics, without times.

    Benchmarks were measured with the largest, and so were times.
    """
    kept = {name: section for name, section in run.items() if name not in (BENCHMARKS, LATENCY, SIZES)}
    return kept | {"evaluation": dict(member.evaluation)}
