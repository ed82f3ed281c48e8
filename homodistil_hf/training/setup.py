"""What a trainer needs before it can be made: student, teacher and plan, all checked before time is spent.

Cheap things first: the plan is checked against the teacher's configuration before weights are loaded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.masking import MaskedLMCollator
from ..distillation.projections import Projections
from ..distillation.teacher import FrozenTeacher, resolve_teacher_dtype
from ..models.conversion import to_student
from ..models.families.family import PROJECTIONS
from ..models.families.modeling_homobert import HomoBertPreTrainedModel
from ..models.half_attention import HALF_CPU_ATTENTION
from ..models.loading import load_teacher, load_teacher_config
from ..models.units import modules_of
from ..models.widths import WidthPlan, teacher_plan
from ..pruning.guard import DiscrepancyGuard
from ..pruning.pruner import PruningSettings
from ..training_args import HomoDistilTrainingArguments
from .ranks import check_whole_model
from .student_plan import Goal, resolve_goal


def masking_collator(tokenizer: Any, args: HomoDistilTrainingArguments) -> MaskedLMCollator:
    """Make what masks words.

    Args:
        tokenizer: the teacher's.
        args: the run's settings.

    Returns:
        [`MaskedLMCollator`].

    Raises:
        ValueError: no tokenizer.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(
            f"processing_class={tokenizer!r} is no tokenizer, so words can't be masked; pass the teacher's tokenizer, "
            "or a data_collator that gives labels"
        )
    return MaskedLMCollator(tokenizer, mlm_probability=args.mlm_probability, seed=args.seed)


def pruning_settings(args: HomoDistilTrainingArguments) -> PruningSettings:
    """Pick the settings of pruning out of all of them.

    Args:
        args: the run's settings.

    Returns:
        [`PruningSettings`].
    """
    return PruningSettings(
        metric=args.importance_metric,
        width_allocation=args.width_allocation,
        multiple=args.width_multiple,
        compaction_threshold=args.compaction_threshold,
        sensitivity_smoothing=args.sensitivity_smoothing,
        uncertainty_smoothing=args.uncertainty_smoothing,
    )


def discrepancy_guard(args: HomoDistilTrainingArguments) -> DiscrepancyGuard | None:
    """Make what may hold pruning back.

    Args:
        args: the run's settings.

    Returns:
        [`DiscrepancyGuard`], or None where it is off.
    """
    if not args.discrepancy_guard:
        return None
    return DiscrepancyGuard(
        ratio=args.guard_ratio,
        floor_nats=args.guard_floor_nats,
        patience_steps=args.guard_patience_steps,
        smoothing=args.guard_smoothing,
    )


@dataclass(frozen=True)
class Preparation:
    """The parts of a run.

    Args:
        student: starts equal to the model it was made from; carries its projections.
        teacher: frozen.
        plan: the widths to reach.
    """

    student: HomoBertPreTrainedModel
    teacher: FrozenTeacher
    plan: WidthPlan


def prepare(
    model: str | PreTrainedModel,
    args: HomoDistilTrainingArguments,
    *,
    teacher: str | PreTrainedModel | None = None,
    resolve: Callable[[HomoDistilTrainingArguments, PreTrainedConfig], Goal] = resolve_goal,
    matched_layers: Sequence[int] | None = None,
) -> Preparation:
    """Make the student, the teacher and the plan of a run.

    Args:
        model: what the student starts as: Hub name, folder, or a loaded model (which is copied).
        args: the run's settings.
        teacher: who it learns from; default: a frozen copy of `model`. Projections that `model` has learned in an
            earlier run are taken over where they fit.
        resolve: where the run goes, by its settings and the configuration of `model`.
        matched_layers: the teacher's layer for each of the student's, where the teacher has more.

    Returns:
        [`Preparation`].

    Raises:
        ValueError: impossible plan, unsupported model, teacher and student that can't be compared, more than one GPU
            in one process, or an output folder that can't be written.
    """
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs in one process would use DataParallel, which loses masks and gradients; launch with "
            "torchrun or accelerate, or set CUDA_VISIBLE_DEVICES to one GPU"
        )
    for name, given in (("model", model), ("teacher", teacher)):
        if isinstance(given, PreTrainedModel):
            check_whole_model(name, given)
    student, goal = _student_and_goal(model, args, resolve)
    guide = to_student(_loaded(teacher, default=student, token=args.hub_token))
    if args.bf16 and args.device.type == "cpu":
        # torch's own fused attention is the slow one there. Not stored in any checkpoint.
        for attentive in (student, guide):
            attentive.set_attn_implementation("eager" if args.torch_compile else HALF_CPU_ATTENTION)
    _check_pair(student, guide, args, has_same_layers=matched_layers is None)
    _set_dropout(student, args.student_dropout)
    _attach_projections(student, guide, args)
    if teacher is not None:
        _take_over_projections(student, model)
    frozen = FrozenTeacher(guide, dtype=resolve_teacher_dtype(args.teacher_dtype, args.device))
    return Preparation(student, frozen, goal.plan)


def _student_and_goal(
    model: str | PreTrainedModel,
    args: HomoDistilTrainingArguments,
    resolve: Callable[[HomoDistilTrainingArguments, PreTrainedConfig], Goal],
) -> tuple[HomoBertPreTrainedModel, Goal]:
    if isinstance(model, str):
        config = load_teacher_config(model, token=args.hub_token)
        goal = resolve(args, config)
        return to_student(load_teacher(model, config=config, token=args.hub_token)), goal
    student = to_student(model).float()
    _freeze_alike(student, model)
    return student, resolve(args, model.config)


def _freeze_alike(student: HomoBertPreTrainedModel, model: PreTrainedModel) -> None:
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    for name, parameter in student.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise ValueError(
            f"model has {len(frozen)} parameters, all of them frozen, so the student could not learn; call "
            "model.requires_grad_(True) first"
        )


def _loaded(teacher: str | PreTrainedModel | None, *, default: PreTrainedModel, token: str | None) -> PreTrainedModel:
    if teacher is None:
        return default
    return load_teacher(teacher, token=token) if isinstance(teacher, str) else teacher


def _check_pair(
    student: HomoBertPreTrainedModel,
    teacher: HomoBertPreTrainedModel,
    args: HomoDistilTrainingArguments,
    *,
    has_same_layers: bool,
) -> None:
    by_layer = args.attention_weight > 0 or (has_same_layers and args.hidden_weight > 0)
    for what, given, expected in (
        ("class", type(teacher).__name__, type(student).__name__),
        ("vocab_size", teacher.config.vocab_size, student.config.vocab_size),
        ("num_hidden_layers", teacher.config.num_hidden_layers, student.config.num_hidden_layers),
        ("num_labels", teacher.config.num_labels, student.config.num_labels),
    ):
        if given != expected and (by_layer or what != "num_hidden_layers"):
            raise ValueError(
                f"teacher has {what}={given}, the student {expected}; both must agree, choose another teacher"
            )
    heads = [[layer.num_attention_heads for layer in teacher_plan(m.config).layers] for m in (teacher, student)]
    if args.attention_weight > 0 and heads[0] != heads[1]:
        raise ValueError(
            f"attention_weight > 0 needs the same heads in teacher {heads[0]} and student {heads[1]}; set it to 0"
        )


def _set_dropout(student: HomoBertPreTrainedModel, rate: float | None) -> None:
    # On the modules, not in the configuration: an export keeps the teacher's rates for whoever fine-tunes it.
    if rate is None:
        return
    for module in modules_of(student, nn.Dropout):
        module.p = rate


def _attach_projections(
    student: HomoBertPreTrainedModel, teacher: HomoBertPreTrainedModel, args: HomoDistilTrainingArguments
) -> None:
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(args.seed)
    projections = Projections(
        student.config.hidden_size,
        teacher.config.hidden_size,
        num_hidden_layers=student.config.num_hidden_layers if args.hidden_weight else 0,
        with_embedding=args.embedding_weight > 0,
        init=args.projection_init,
    )
    torch.random.set_rng_state(generator_state)
    student.add_module(PROJECTIONS, projections)


def _take_over_projections(student: HomoBertPreTrainedModel, model: str | PreTrainedModel) -> None:
    """A student that goes on with its teacher knows the way to that one's hidden states already."""
    earlier, own = getattr(model, PROJECTIONS, None), student.get_submodule(PROJECTIONS)
    if earlier is not None and _shapes(earlier) == _shapes(own):
        own.load_state_dict(earlier.state_dict())


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}
