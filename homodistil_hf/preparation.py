"""What a trainer needs before it can be made: student, teacher and plan, all checked before time is spent.

Cheap things first: the plan is checked against the teacher's configuration before weights are loaded.
"""

import os
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import datasets
import pyarrow.compute as pc
import torch
from torch import nn
from torch.utils.data import IterableDataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .attention import HALF_CPU_ATTENTION
from .conversion import load_teacher, load_teacher_config, to_student
from .data import check_tokenizer
from .modeling import HomoBertPreTrainedModel
from .projections import Projections
from .ranks import check_whole_model
from .resolution import resolve_student
from .structure import PROJECTIONS, modules_of
from .teacher import FrozenTeacher, resolve_teacher_dtype
from .training_args import HomoDistilTrainingArguments
from .widths import WidthPlan, teacher_plan


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
    matched_layers: Sequence[int] | None = None,
) -> Preparation:
    """Make the student, the teacher and the plan of a run.

    Args:
        model: what the student starts as: Hub name, folder, or a loaded model (which is copied).
        args: the run's settings.
        teacher: who it learns from; default: a frozen copy of `model`.
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
    student, plan = _student_and_plan(model, args)
    guide = to_student(_loaded(teacher, default=student, token=args.hub_token))
    if args.bf16 and args.device.type == "cpu":
        # torch's own fused attention is the slow one there. Not stored in any checkpoint.
        for attentive in (student, guide):
            attentive.set_attn_implementation("eager" if args.torch_compile else HALF_CPU_ATTENTION)
    _check_pair(student, guide, args, has_same_layers=matched_layers is None)
    _set_dropout(student, args.student_dropout)
    _attach_projections(student, guide, args)
    return Preparation(
        student, FrozenTeacher(guide, dtype=resolve_teacher_dtype(args.teacher_dtype, args.device)), plan
    )


def _student_and_plan(
    model: str | PreTrainedModel, args: HomoDistilTrainingArguments
) -> tuple[HomoBertPreTrainedModel, WidthPlan]:
    if isinstance(model, str):
        config = load_teacher_config(model, token=args.hub_token)
        plan = resolve_student(args, config)
        return to_student(load_teacher(model, config=config, token=args.hub_token)), plan
    student = to_student(model).float()
    _freeze_alike(student, model)
    return student, resolve_student(args, model.config)


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


def check_output_dir(output_dir: str) -> None:
    """Make sure that a run can write where it is told to.

    Args:
        output_dir: created if absent.

    Raises:
        ValueError: it is a file, or can't be created or written.
    """
    try:
        os.makedirs(output_dir, exist_ok=True)
        writable = os.access(output_dir, os.W_OK | os.X_OK)
    except OSError as error:
        raise ValueError(
            f"output_dir={output_dir!r} can't be created ({error.strerror}); name a folder that you may write"
        ) from error
    if not writable:
        raise ValueError(f"output_dir={output_dir!r} can't be written; change its permissions or name another folder")


def existing_files(output_dir: str) -> list[str]:
    """What is in an output folder before a run.

    Args:
        output_dir: may be absent.

    Returns:
        `list[str]`: sorted names.
    """
    return sorted(os.listdir(output_dir)) if os.path.isdir(output_dir) else []


def check_data(data: Mapping[str, Any], tokenizer: Any, config: Any) -> None:
    """Look at the data before training starts.

    Args:
        data: argument name → data set, map-style or streaming, or a mapping of them; None is fine. Streams can't be
            looked at.
        tokenizer: checked against the teacher's vocabulary when it is one.
        config: the student's configuration.

    Raises:
        ValueError: an empty data set, rows that are not tokenized, sequences longer than the teacher's positions, a
            tokenizer of another vocabulary.
    """
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        check_tokenizer(tokenizer, config)
    for name, dataset in data.items():
        parts = dataset if isinstance(dataset, dict) else {"": dataset}
        for part, rows in parts.items():
            _check_rows(f"{name}[{part!r}]" if part else name, rows, config)


def _check_rows(name: str, rows: Any, config: Any) -> None:
    if not isinstance(rows, Sized) or isinstance(rows, IterableDataset):
        return
    if len(rows) == 0:
        raise ValueError(f"{name} is empty (0 rows); check its filters, split and path")
    table: Any = rows
    first = table[0]
    if isinstance(first, Mapping) and "input_ids" not in first:
        raise ValueError(
            f"{name} has rows of {', '.join(map(str, first)) or 'nothing'}, but no input_ids; tokenize it first "
            "(masked words: homodistil_hf.tokenize_to_blocks)"
        )
    length = _longest(rows, first)
    if length > config.max_position_embeddings:
        raise ValueError(
            f"{name} has sequences of {length} tokens, above the teacher's max_position_embeddings="
            f"{config.max_position_embeddings}; set max_seq_length to at most that"
        )


def _longest(rows: Any, first: Any) -> int:
    """Tokens of the longest row of a table; of any other data set only the first row is looked at."""
    if isinstance(rows, datasets.Dataset) and "input_ids" in rows.column_names:
        tables = rows.select_columns("input_ids").with_format("arrow").iter(batch_size=10_000)
        return max(pc.max(pc.list_value_length(table["input_ids"])).as_py() or 0 for table in tables)
    return len(first["input_ids"]) if isinstance(first, Mapping) else 0


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
