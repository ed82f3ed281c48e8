"""The smaller members of a nested student in training: their part of the loss, their held-out metrics.

A nested student has several sizes in one set of weights, see `pruning/nested.py`. The largest is the trainer's model,
and everything about it goes as in other runs. Each step trains one size, in turn: a smaller member's gradients flow
into the weights that it has in common with the largest.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate.utils import convert_to_fp32
from torch import nn
from transformers import PreTrainedConfig

from ..distillation.objective import DistillationLoss, Terms
from ..distillation.tasks import Inputs
from ..export.nested import NestedMember, member_name, probe_states
from ..models.architectures.architecture import PROJECTIONS
from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.cost import MODEL_COSTS, encoder_macs, planned_facts
from ..models.units import Group
from ..models.widths import WidthPlan, widest_of, widths_of
from ..plans.budgets import is_latency_budget
from ..plans.resolve import check_family, resolve_plan
from ..pruning.nested import MEMBERS, Member
from .evaluation_loop import HeldOutEvaluation


@dataclass
class _Part:
    """A member with its loss and its evaluation."""

    member: Member
    distillation: DistillationLoss
    held_out: HeldOutEvaluation


class NestedStudent:
    """The members of a student but the largest.

    Args:
        student: the largest member; its projections get copies, one a member.
        plans: name of each smaller member → its widths, from wide to narrow.
        distillation: loss of the largest.
        held_out: evaluation of the largest.
    """

    def __init__(
        self,
        student: LayerwiseModel,
        plans: Mapping[str, WidthPlan],
        *,
        distillation: DistillationLoss,
        held_out: HeldOutEvaluation,
    ):
        self.student, self.distillation = student, distillation
        self.own = nn.ModuleList(copy.deepcopy(student.get_submodule(PROJECTIONS)) for _ in plans)
        for projections in self.own:
            projections._buffers.clear()  # they are no member's own
        student.get_submodule(PROJECTIONS).add_module(MEMBERS, self.own)
        student._keys_to_ignore_on_save.update(f"{PROJECTIONS}.{MEMBERS}.{name}" for name in self.own.state_dict())
        self.parts: list[_Part] = []
        for number, (name, plan) in enumerate(plans.items()):
            member = Member(student, plan, name=name, number=number)
            loss, evaluation = copy.copy(distillation), copy.copy(held_out)
            loss.student = evaluation.student = member.model
            if hasattr(evaluation, "distillation"):
                evaluation.distillation = loss
            self.parts.append(_Part(member, loss, evaluation))
        self.held_out = NestedEvaluation(held_out, self.parts)

    def narrow(self, groups: Mapping[str, Group], innermost: WidthPlan) -> list[Member]:
        """Give the members the widths of now: their plans', or wider ones that the schedule hasn't left yet.

        Args:
            groups: the student's.
            innermost: widths that the schedule has reached.

        Returns:
            Members that were as wide as the student before, and are no more.
        """
        apart = []
        for member in (part.member for part in self.parts):
            plan, was_apart = widest_of(innermost, member.plan), member.is_apart
            member.narrow(groups, plan)
            if member.is_apart and not was_apart:
                apart.append(member)
        return apart

    @torch.no_grad()
    def follow(self, groups: Mapping[str, Group], innermost: WidthPlan) -> None:
        """As `narrow`; members that leave the largest go on with its projections."""
        for member in self.narrow(groups, innermost):
            named = dict(self.student.get_submodule(PROJECTIONS).named_parameters())
            for name, parameter in member.projections.named_parameters():
                parameter.copy_(named[name])

    def checkpoint_gradients(self) -> None:
        """Compute activations anew in the backward pass where the largest does: Trainer has asked it alone."""
        for name, module in self.student.named_modules():
            if getattr(module, "gradient_checkpointing", False):
                for part in self.parts:
                    own: Any = part.member.model.get_submodule(name)
                    own.gradient_checkpointing = True
                    own._gradient_checkpointing_func = module._gradient_checkpointing_func

    def state_to_save(self) -> dict[str, Any]:
        """What a checkpoint has of the sizes, and a resumed run must have: the plans of the smaller ones."""
        return {"members": {part.member.name: part.member.plan.to_dict() for part in self.parts}}

    def models(self) -> list[Any]:
        """The models of the members with the student's weights as they are now."""
        return [part.member.take_weights() for part in self.parts]

    def terms(self, model: nn.Module, inputs: Inputs, counts: torch.Tensor, *, step: int) -> tuple[Terms, Any]:
        """Terms of the loss of the member that has its turn: the largest first, then the others from wide to narrow.

        Members as wide as the largest are none of their own yet. Arguments and return as [`DistillationLoss.terms`];
        `step` counts completed steps.
        """
        apart = [part for part in self.parts if part.member.is_apart]
        turn = step % (1 + len(apart))
        if turn == 0:
            terms, outputs = self.distillation.terms(model, inputs, counts)
        else:
            part = apart[turn - 1]
            with self._in_its_place(part):
                terms, outputs = part.distillation.terms(model, inputs, counts)
        # DDP waits for the gradients of all: those of projections that have no turn are 0
        projections = self.student.get_submodule(PROJECTIONS).parameters()
        trained = [parameter.sum() for parameter in projections if parameter.requires_grad]
        first = next(iter(terms))
        return terms | ({first: terms[first] + 0.0 * torch.stack(trained).sum()} if trained else {}), outputs

    def members(self, largest: str, plan: WidthPlan, metrics: Mapping[str, float]) -> list[NestedMember]:
        """All members for an export, with the name and the plan of the largest; `metrics` are those of all members."""
        rest, found_of = dict(metrics), dict[str, dict[str, float]]()
        # long names first: one may end with another
        for member in sorted((part.member for part in self.parts), key=lambda one: len(one.name), reverse=True):
            evaluation = found_of[member.name] = {}
            for name in [*rest]:
                # the name of one of several evaluation sets comes before the member's
                of_set, found, metric = name.partition(f"{member.name}_")
                if found and (not of_set or of_set.endswith("_")):
                    evaluation[of_set + metric] = rest.pop(name)
        members = (part.member for part in self.parts)
        return [
            NestedMember(largest, plan, rest),
            *(NestedMember(one.name, one.plan, found_of[one.name]) for one in members),
        ]

    @torch.no_grad()
    def probes(self) -> list[list[float]]:
        """[`probe_states`] of the smaller members as they are now."""
        return [probe_states(copy.deepcopy(model).cpu().eval()) for model in self.models()]

    def facts_of(self, members: Sequence[NestedMember]) -> dict[str, dict[str, Any]]:
        """Name → costs and metrics of each member of `members`, as its export has them."""
        config, kind = self.student.config, type(self.student).__name__
        costs = [planned_facts(config, kind, one.plan.padded()) for one in members]
        of_sizes = zip(members, costs, strict=True)
        return {one.name: {key: cost[key] for key in MODEL_COSTS} | dict(one.evaluation) for one, cost in of_sizes}

    @contextmanager
    def _in_its_place(self, part: _Part) -> Iterator[None]:
        """Inside the context a call of the student, however it is wrapped, is one of a smaller member."""
        # accelerate wraps the instance's forward in autocast, DDP calls what it wraps
        own = vars(self.student).get("forward")
        self.student.forward = partial(self._run, part)
        try:
            yield
        finally:
            del self.student.forward
            if own is not None:
                self.student.forward = own

    def _run(self, part: _Part, **inputs: Any) -> Any:
        # as accelerate wraps the largest
        with part.distillation.autocast():
            return convert_to_fp32(part.member.take_weights()(**inputs))


class NestedEvaluation:
    """Measures all members on the same batches, as a [`HeldOutEvaluation`] measures one."""

    whole_row_scores: Any = None

    def __init__(self, largest: HeldOutEvaluation, parts: Sequence[_Part]):
        self.largest, self.parts = largest, parts

    def reset(self) -> None:
        """Start a new evaluation."""
        for held_out in (self.largest, *(part.held_out for part in self.parts)):
            held_out.reset()

    def measure(self, inputs: Mapping[str, torch.Tensor]) -> Any:
        """Measure all members; the largest's loss."""
        with self.largest.teacher.remembering():
            loss = self.largest.measure(inputs)
            for part in self.parts:
                part.member.take_weights()
                part.held_out.measure(inputs)
        return loss

    def logits(self, inputs: Mapping[str, torch.Tensor], ignore_keys: Sequence[str] | None) -> Any:
        """The largest's."""
        return self.largest.logits(inputs, ignore_keys)

    def results(self) -> dict[str, float]:
        """The largest's metrics, without a name in front as in other runs, and `{member}_{metric}` of the others."""
        self.largest.whole_row_scores = self.whole_row_scores
        results = self.largest.results()
        for part in self.parts:
            part.held_out.whole_row_scores = self.whole_row_scores
            results |= {f"{part.member.name}_{name}": value for name, value in part.held_out.results().items()}
        return results

    def of_teacher(self, batches: Any) -> dict[str, float]:
        """See [`HeldOutEvaluation`]."""
        self.largest.whole_row_scores = self.whole_row_scores
        return self.largest.of_teacher(batches)


def nested_plans(args: Any, config: PreTrainedConfig, *, largest: WidthPlan | None = None) -> dict[str, WidthPlan]:
    """Turn the sizes of a nested student into widths: name → plan, from wide to narrow, none above the one before.

    Args:
        args: the trainer's, whose `sizes` they are.
        config: of the model that the student begins as.
        largest: the plan that the trainer has.

    Raises:
        ValueError: see [`resolve_plan`] and [`check_family`]; also fewer layers, a latency budget, two sizes of one
            name, or a `largest` that is not the first size.
    """
    plans: list[WidthPlan] = []
    teacher, sizes = widths_of(config), args.sizes
    for size in sizes:
        if is_latency_budget(size):
            raise ValueError(f"student={size!r}: sizes of a nested student are no budgets of time; name macs=…")
        how: Any = {"multiple": args.width_multiple, "plain": args.plain}
        plan = resolve_plan(size, config, **how)
        # a budget finds widths within those of the larger member
        if plans and encoder_macs(plan) < encoder_macs(plans[-1]):
            plan = resolve_plan(size, config, within=plans[-1], **how)
        if len(plan.layers) < len(teacher.layers):
            raise ValueError(
                f"student={size!r} has {len(plan.layers)} of {len(teacher.layers)} layers; the members of a nested "
                "student have all of them, and fewer units: leave the number of layers out"
            )
        plans.append(plan)
    check_family(sizes, plans, teacher)
    if largest is not None and largest != plans[0]:
        raise ValueError(
            f"plan={largest.to_json()} beside nested=True: student={sizes[0]!r} is the largest size, "
            f"{plans[0].to_json()}; leave plan out"
        )
    named = dict(zip(map(member_name, sizes), plans, strict=True))
    if len(named) < len(plans):
        raise ValueError(
            f"student names {len(plans)} sizes by {len(named)} names, {', '.join(named)}: long plans lose their ends, "
            "and files their folders; write each plan to a file of another name, such as half.json, and name the files"
        )
    return named
