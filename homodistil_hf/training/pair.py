"""Student and teacher of a run, with the plan and the projections between them, checked before time is spent.

Cheap things first: the plan is checked against the teacher's configuration before weights are loaded. Most plans
follow from the settings alone. The plan of a latency budget is measured, and a second measurement could differ. So
every checkpoint holds the plan, and a resumed run takes it from there.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..distillation.projections import Projections
from ..distillation.teacher import FrozenTeacher, resolve_teacher_dtype
from ..files.checkpoints import STATE_FILE, sorted_checkpoints
from ..models.architectures import HEADS, architecture_of
from ..models.architectures.architecture import (
    MASKED_LM,
    PROJECTIONS,
    REPLACED_TOKENS,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.conversion import refuse_no_model, to_student
from ..models.loading import default_activation, load_encoder, load_encoder_config
from ..models.saved_student import read_state
from ..models.units import encoder_groups
from ..models.widths import WidthPlan, widths_of
from ..plans.advice import doubts
from ..plans.resolve import resolve_plan
from ..tasks.kinds import task_kind_of
from ..training_args import DistillationArguments
from .ranks import check_whole_model, on_every_rank
from .run_folder import is_hub_address

if TYPE_CHECKING:
    from ..plans.latency import LatencyBudget

logger = logging.getLogger(__name__)

Resolve = Callable[[DistillationArguments, PreTrainedConfig], WidthPlan]
ProjectionInit = Literal["identity", "random"]
Origins: TypeAlias = tuple[Any, Any, WidthPlan | None]
"""Model that a student starts as; the one that it learns from, None: a frozen copy; its plan, if that is resolved."""


def resolve_student(
    args: DistillationArguments,
    config: PreTrainedConfig,
    *,
    starts_with_all_layers: bool = True,
    fewer_layers_below: int = 0,
) -> WidthPlan:
    """Turn the setting `student` into widths, the same on all ranks. Collective for a latency budget.

    Args:
        args: the run's settings.
        config: configuration of the model that the student starts as.
        starts_with_all_layers: whether a plan's widths are those of all layers; a latency budget is measured on them.
        fewer_layers_below: see [`resolve_plan`].

    Raises:
        ValueError: see [`resolve_plan`]; also a latency budget without `starts_with_all_layers`.
    """
    if args.student is None:
        raise ValueError("student=None names no widths; name a preset (homobert-tiny), a budget (macs=0.25) or a plan")

    plain = args.plain and starts_with_all_layers  # of whole layers a plan only says the MACs

    def measure(budget: "LatencyBudget") -> WidthPlan:
        from ..plans.latency import plan_within  # clocks, for this budget alone

        if not starts_with_all_layers:
            raise ValueError(
                f"student={args.student!r} is measured with all of the teacher's layers, but this student has fewer, "
                "whole ones; ask for a share of the encoder MACs, such as macs=0.5"
            )

        def of_the_first_rank() -> WidthPlan | None:
            # another rank would find other times and so other widths
            if args.process_index != 0:
                return None
            recorded = recorded_plan(args, config)
            return recorded or plan_within(budget, config, multiple=args.width_multiple, plain=plain)[0]

        return broadcast_object_list([on_every_rank(of_the_first_rank)])[0]

    plan = resolve_plan(
        args.student,
        config,
        multiple=args.width_multiple,
        measure=measure,
        plain=plain,
        fewer_layers_below=fewer_layers_below,
    )
    if args.process_index == 0 and starts_with_all_layers:
        for warning in doubts(plan, widths_of(config)):
            logger.warning(warning)
    return plan


def recorded_plan(args: DistillationArguments, config: PreTrainedConfig) -> WidthPlan | None:
    """The plan that a checkpoint holds for the same budget, limits of widths and start widths, or None."""
    requested = args.resume_from_checkpoint
    if args.overwrite_output_dir and not requested:
        return None  # what is there belongs to another run
    # a checkpoint that is named counts alone, else the newest one that fits
    named = requested if isinstance(requested, str) and requested != "last" else None
    if named is not None and is_hub_address(named):
        from .publishing import fetch_checkpoint  # for this alone

        named = str(fetch_checkpoint(named, args.output_dir, token=args.hub_token))
    limits = {"width_multiple": args.width_multiple, "plain": args.plain}
    for folder in map(Path, [named] if named else sorted_checkpoints(args.output_dir)):
        if not (folder / STATE_FILE).is_file():
            continue
        state = read_state(folder)
        recorded = limits | state["settings"] | {"plain": state.get("plain", args.plain)}
        is_of_these = limits.items() <= recorded.items()
        if is_of_these and state["student"] == args.student and state["full"] == widths_of(config).to_dict():
            logger.info("student=%r: the widths of %s are taken, nothing is measured", args.student, folder)
            return WidthPlan.from_dict(state["plan"], config.num_hidden_layers)
    return None


def prepare(
    model: str | PreTrainedModel,
    args: DistillationArguments,
    *,
    teacher: str | PreTrainedModel | None = None,
    resolve: Resolve = resolve_student,
    matched_layers: Sequence[int] | None = None,
    needs_head: bool = True,
    projection_init: ProjectionInit = "identity",
) -> tuple[LayerwiseModel, FrozenTeacher, WidthPlan]:
    """Make the student, the teacher and the plan of a run.

    Args:
        model: the model that the student starts as: Hub name, folder, or a loaded model (which is copied). If it has
            projections of an earlier run, and their shapes fit, they are taken over.
        args: the run's settings.
        teacher: the model that the student learns from; default: a frozen copy of `model`.
        resolve: settings and configuration of `model` → the widths to reach.
        matched_layers: the teacher's layer for each of the student's, where the teacher has more.
        needs_head: refuse encoders without a head.
        projection_init: start of the projections student → teacher.

    Returns:
        `(student, teacher, plan)`: the student with its projections, the frozen teacher, the widths to reach.

    Raises:
        ValueError: impossible plan, unsupported model, teacher and student that can't be compared, or an output folder
            that can't be written.
    """
    for name, source in {"model": model, "teacher": model if teacher is None else teacher}.items():
        refuse_no_model(source, name)
        if isinstance(source, PreTrainedModel):
            check_whole_model(name, source)
    if isinstance(model, str):
        # the plan comes before the weights: an impossible one costs no time
        config = load_encoder_config(model, token=args.hub_token, argument="model")
        plan = resolve(args, config)
        loaded = load_encoder(model, config=config, token=args.hub_token, argument="model")
        student = to_student(loaded, argument="model")
    else:
        student = to_student(model, needs_head=needs_head, argument="model").float()
        _freeze_alike(student, model)
        plan = resolve(args, model.config)
    teacher_source = teacher
    if isinstance(teacher, str):
        teacher = load_encoder(teacher, token=args.hub_token)
    guide = to_student(student if teacher is None else teacher, needs_head=needs_head)
    if args.bf16 and args.device.type == "cpu":
        # torch's own fused attention is the slow one there. Not stored in any checkpoint.
        for attentive in (student, guide):
            attentive.set_attn_implementation("eager")
    _check_pair(student, guide, args, has_same_layers=matched_layers is None)
    _share_activation(student, guide, model if teacher_source is None else teacher_source, token=args.hub_token)
    if args.student_dropout is not None:
        # on the modules, not in the configuration: an export keeps the teacher's rates for its fine-tuning
        for module in student.modules():
            if isinstance(module, nn.Dropout):
                module.p = args.student_dropout
            elif isinstance(getattr(module, "attention_dropout", None), float | int):
                module.attention_dropout = args.student_dropout  # of attention that has no module for it
    _attach_projections(student, guide, args, init=projection_init)
    # a student that goes on with its teacher has learned its projections
    earlier, fresh = getattr(model, PROJECTIONS, None), student.get_submodule(PROJECTIONS)
    if teacher is not None and earlier is not None and _shapes(earlier) == _shapes(fresh):
        fresh.load_state_dict(dict(earlier.named_parameters()))
    frozen = FrozenTeacher(guide, dtype=resolve_teacher_dtype(args.teacher_dtype, args.device, fp16=args.fp16))
    return student, frozen, plan


def _kind(model: PreTrainedModel) -> str:
    return task_kind_of(model.config, type(model).__name__)


def _share_activation(
    student: PreTrainedModel, guide: PreTrainedModel, source: str | PreTrainedModel, *, token: str | None
) -> None:
    """Give a student of one value what sentence-transformers puts behind its teacher's, or nothing."""
    head = HEADS.get(type(guide).__name__)
    if head is None or head.kind is not SEQUENCE_CLASSIFICATION or guide.config.num_labels != 1:
        return
    found = default_activation(source, token=token)
    for config in (student.config, guide.config):
        vars(config).pop("sentence_transformers", None)
        if found is not None:
            config.sentence_transformers = {"activation_fn": found}


def check_alike(teacher: PreTrainedModel, model: PreTrainedModel, names: Sequence[str]) -> None:
    """Refuse, by a ValueError, a teacher whose configuration has another value of a name than the student's."""
    for name in names:
        of_teacher, of_student = (getattr(one.config, name, None) for one in (teacher, model))
        if of_teacher != of_student:
            raise ValueError(
                f"teacher has {name}={of_teacher}, the student {of_student}; both must agree, choose another teacher"
            )


def _freeze_alike(student: LayerwiseModel, model: PreTrainedModel) -> None:
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    for name, parameter in student.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise ValueError(
            f"model has {len(frozen)} parameters, all of them frozen, so the student could not learn; call "
            "model.requires_grad_(True) first"
        )
    trained = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    for name, group in encoder_groups(student).items():
        if not any(part.parameter in trained for part in group.slices):
            raise ValueError(
                f"model has frozen layers: no parameter of the units {name!r} trains, so they could not be told apart "
                "nor learn; call model.requires_grad_(True) first"
            )


def _check_pair(
    student: LayerwiseModel,
    teacher: LayerwiseModel,
    args: DistillationArguments,
    *,
    has_same_layers: bool,
) -> None:
    weights = args.loss_weights()
    # attention is compared layer by layer, and so are hidden states of equally many layers
    compares_attention = weights.get("attention", 0.0) > 0
    by_layer = compares_attention or (has_same_layers and weights.get("hidden", 0.0) > 0)
    head = HEADS.get(type(student).__name__)
    kind = head.kind if head else None
    has_labels = kind not in (MASKED_LM, REPLACED_TOKENS, None)
    # a list times False is empty: names that don't matter here are left out
    names = ["vocab_size"] + ["num_hidden_layers"] * by_layer + ["num_labels"] * has_labels
    compared: list[tuple[str, Any, Any]] = [("class", type(teacher).__name__, type(student).__name__)]
    compared += [(name, getattr(teacher.config, name), getattr(student.config, name)) for name in names]
    if kind is SEQUENCE_CLASSIFICATION and _kind(teacher) != _kind(student):
        compared.append(("problem_type", teacher.config.problem_type, student.config.problem_type))
    # classes of equal number may have other meanings
    if kind in (SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION) and student.config.num_labels > 1:
        others = teacher.config.id2label
        compared += [
            (f"id2label[{label}]", others.get(label), word) for label, word in student.config.id2label.items()
        ]
    for what, of_teacher, of_student in compared:
        if of_teacher != of_student:
            remedy = "choose another teacher"
            if what.startswith(("problem_type", "id2label")):
                remedy += ", or set it in teacher.config where both mean the same"
            raise ValueError(f"teacher has {what}={of_teacher}, the student {of_student}; both must agree, {remedy}")
    for what in ("max_position_embeddings", "type_vocab_size"):
        of_teacher, of_student = (getattr(config, what, 0) for config in (teacher.config, student.config))
        if of_teacher < of_student:
            raise ValueError(
                f"teacher has {what}={of_teacher}, fewer than the student's {of_student}, so it can't read all that "
                f"the student can; choose another teacher, or a model of at most {of_teacher}"
            )
    architecture = architecture_of(student.config)
    if compares_attention and architecture.scores_have_positions:
        raise ValueError(
            f"attention_weight={weights['attention']}, but a {architecture.model_type} adds positions to the "
            "products of queries and keys, which this term does not compare; set it to 0"
        )
    heads = [[layer.num_attention_heads for layer in widths_of(m.config).layers] for m in (teacher, student)]
    if compares_attention and heads[0] != heads[1]:
        raise ValueError(
            f"attention_weight > 0 needs the same heads in teacher {heads[0]} and student {heads[1]}; set it to 0"
        )


def _attach_projections(
    student: LayerwiseModel, teacher: LayerwiseModel, args: DistillationArguments, *, init: ProjectionInit
) -> None:
    weights = args.loss_weights()
    with torch.random.fork_rng([]):
        torch.manual_seed(args.seed)
        projections = Projections(
            student.config.hidden_size,
            teacher.config.hidden_size,
            num_hidden_layers=student.config.num_hidden_layers if weights.get("hidden") else 0,
            with_embedding=weights.get("embedding", 0.0) > 0,
            init=init,
        )
    student.add_module(PROJECTIONS, projections)
    # They are saved beside the student's own weights.
    student._keys_to_ignore_on_save = {f"{PROJECTIONS}.{name}" for name in projections.state_dict()}


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in module.named_parameters()}


def adopt_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module | None, student: nn.Module) -> None:
    """Point an optimizer that was made for a model to the student that was made from it, state included.

    Parameters are matched by name; what the student lacks is dropped, and its projections join the first group. An
    optimizer of other parameters is refused.
    """
    names = {} if model is None else {parameter: name for name, parameter in model.named_parameters()}
    parameters = dict(student.named_parameters())
    for group in optimizer.param_groups:
        unknown = [parameter for parameter in group["params"] if parameter not in names]
        if unknown:
            raise ValueError(
                f"optimizers[0] holds {len(unknown)} parameters that are not those of the copied model; "
                "make it from the parameters of the loaded model that you pass or, where a method leaves "
                "layers out, give optimizer_cls_and_kwargs instead"
            )
        # the state first: it is keyed by the old parameters, which the group then loses
        for parameter in group["params"]:
            if parameter in optimizer.state and names[parameter] in parameters:
                optimizer.state[parameters[names[parameter]]] = optimizer.state.pop(parameter)
        kept = [names[parameter] for parameter in group["params"] if names[parameter] in parameters]
        group["params"] = [parameters[name] for name in kept]
    # projections have no counterpart in the model
    projections = [parameter for name, parameter in parameters.items() if name.startswith(f"{PROJECTIONS}.")]
    optimizer.param_groups[0]["params"].extend(projections)
