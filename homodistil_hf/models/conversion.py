"""Teacher → student and student → stock BERT, without changing a logit.

`load_teacher` reads a stock checkpoint, `to_student` copies it into the classes of `modeling.py`, `to_stock` zero-pads
a student to uniform widths and hands it back as a stock class. Which widths are possible is decided in `widths.py`;
folders on disk are written in `export.py`.
"""

from typing import Any

import torch
from transformers import BertConfig, PreTrainedModel

from .families.bert import LAYER_PREFIX, STOCK_CLASSES, STUDENT_CLASSES
from .families.family import PROJECTIONS
from .families.modeling_homobert import HomoBertConfig, HomoBertPreTrainedModel, layer_head_dim
from .loading import refuse_architecture, refuse_config, some
from .resizing import replace_parameters
from .widths import LayerWidths, WidthPlan, teacher_plan

# Keys of a configuration that describe a class or a file, not the model's training.
_CLASS_KEYS = ("model_type", "architectures", "auto_map", "transformers_version", "dtype")


_STUDENT_ONLY_KEYS = ("head_dim", "softmax_head_dim", "dropped_hidden_channels", "per_layer_config")


def to_student(model: PreTrainedModel) -> HomoBertPreTrainedModel:
    """Copy a teacher into the student class of the same head; logits stay the same.

    Args:
        model: a stock `BertForX`, or a `HomoBertForX`.

    Returns:
        `HomoBertForX` in float32 on the same device and in the same mode, with weights of its own.

    Raises:
        ValueError: the class or a setting of the model is not supported.

    Example:
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> config = BertConfig(
        ...     vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        ... )
        >>> student = to_student(BertForMaskedLM(config))
        >>> type(student).__name__, student.config.softmax_head_dim
        ('HomoBertForMaskedLM', 8)
    """
    class_name = type(model).__name__
    refuse_architecture(class_name)
    refuse_config(model.config)
    student_class = STUDENT_CLASSES.get(class_name) or type(model)
    student = student_class(_student_config(model))
    # A pre-training teacher has a pooler and a next-sentence head; a student in training has its projections.
    wanted = student.state_dict().keys()
    surplus = ("bert.pooler.", "cls.seq_relationship.", f"{PROJECTIONS}.")
    state = {
        name: tensor for name, tensor in model.state_dict().items() if name in wanted or not name.startswith(surplus)
    }
    student.load_state_dict(state)
    student.name_or_path = model.name_or_path
    return student.to(model.device).train(model.training)


def to_stock(model: HomoBertPreTrainedModel) -> PreTrainedModel:
    """Zero-pad a student to uniform widths and return it as the stock class; logits stay the same.

    A zero FFN neuron and a head with zero value rows contribute exactly nothing. Stock BERT takes its softmax scale
    from the head size D = hidden_size / num_attention_heads, the student from d = `softmax_head_dim`, so query weight
    and bias are multiplied by √(D/d).

    Args:
        model: a compacted `HomoBertForX`, of any widths.

    Returns:
        Stock `BertForX` of the same type, device and mode, with weights of its own.

    Raises:
        ValueError: masked hidden channels are still there, or no stock BERT can hold these widths.
    """
    stock_class = STOCK_CLASSES.get(type(model).__name__)
    if stock_class is None:
        raise ValueError(
            f"model={type(model).__name__} is no student; expected one of {', '.join(STOCK_CLASSES)} (to_student)"
        )
    if dropped := model.config.dropped_hidden_channels:
        raise ValueError(
            f"model has {len(dropped)} masked hidden channels (dropped_hidden_channels), which stock BERT would mix "
            f"into its LayerNorm statistics; compact it first"
        )
    widths = teacher_plan(model.config)
    plan = widths.padded()
    stock = stock_class(_stock_config(model.config, plan)).to(device=model.device, dtype=model.dtype)
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(f"{PROJECTIONS}.")}
    for index, (old, new) in enumerate(zip(widths.layers, plan.layers, strict=True)):
        prefix = LAYER_PREFIX.format(index)
        softmax_head_dim = model.config.softmax_head_dim or old.head_dim
        for name in (f"{prefix}attention.self.query.weight", f"{prefix}attention.self.query.bias"):
            state[name] = state[name] * (new.head_dim / softmax_head_dim) ** 0.5
        state |= _resized_layer(state, prefix, old, new)
    stock.load_state_dict(state)
    stock.name_or_path = model.name_or_path
    return stock.train(model.training)


def remove_padding(student: HomoBertPreTrainedModel, plan: WidthPlan) -> None:
    """Cut off what [`to_stock`] padded; logits stay the same.

    Args:
        student: changed in place, with uniform widths of `plan.padded()`.
        plan: the widths before padding.

    Raises:
        ValueError: the widths are others, or something to be cut is not zero.
    """
    padded = teacher_plan(student.config)
    if plan.padded() != padded:
        raise ValueError(
            f"plan={plan.to_json()} pads to {plan.padded().to_json()}, but the student has {padded.to_json()}"
        )
    state = student.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    for index, (old, new) in enumerate(zip(padded.layers, plan.layers, strict=True)):
        tensors |= _resized_layer(state, LAYER_PREFIX.format(index), old, new)
    if lossy := [name for name, kept in tensors.items() if kept.count_nonzero() != state[name].count_nonzero()]:
        raise ValueError(
            f"plan={plan.to_json()} would cut weights that are not zero in {some(lossy)}; keep the padded widths"
        )
    replace_parameters(student, tensors, plan=plan)


def _resized_layer(
    state: dict[str, torch.Tensor], prefix: str, old: LayerWidths, new: LayerWidths
) -> dict[str, torch.Tensor]:
    resized = {}
    for kind in ("weight", "bias"):
        for part in ("query", "key", "value"):
            name = f"{prefix}attention.self.{part}.{kind}"
            resized[name] = _resized_heads(state[name], old, new)
        name = f"{prefix}intermediate.dense.{kind}"
        resized[name] = _resized(state[name], (new.intermediate_size,))
    name = f"{prefix}attention.output.dense.weight"
    resized[name] = _resized_heads(state[name].T, old, new).T.contiguous()
    name = f"{prefix}output.dense.weight"
    resized[name] = _resized(state[name].T, (new.intermediate_size,)).T.contiguous()
    return resized


def _resized_heads(rows: torch.Tensor, old: LayerWidths, new: LayerWidths) -> torch.Tensor:
    by_head = rows.unflatten(0, (old.num_attention_heads, old.head_dim))
    return _resized(by_head, (new.num_attention_heads, new.head_dim)).flatten(0, 1)


def _resized(tensor: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    """Cut or zero-pad the first dimensions at their ends."""
    resized = tensor.new_zeros((*sizes, *tensor.shape[len(sizes) :]))
    window = tuple(slice(min(pair)) for pair in zip(resized.shape, tensor.shape, strict=True))
    resized[window] = tensor[window]
    return resized


def _student_config(model: PreTrainedModel) -> HomoBertConfig:
    config = model.config
    values = {key: value for key, value in config.to_dict().items() if key not in _CLASS_KEYS}
    if not isinstance(config, HomoBertConfig):
        head_dim = layer_head_dim(config)
        values |= {"head_dim": head_dim, "softmax_head_dim": head_dim}
    # transformers leaves a decoder untied whose stored weights differ, whatever the configuration says.
    decoder = model.get_output_embeddings()
    if decoder is not None and decoder.weight is not model.get_input_embeddings().weight:
        values["tie_word_embeddings"] = False
    return HomoBertConfig(**values, **_runtime_settings(config))


def _stock_config(config: BertConfig, plan: WidthPlan) -> BertConfig:
    dropped_keys = (*_CLASS_KEYS, *_STUDENT_ONLY_KEYS)
    values = {key: value for key, value in config.to_dict().items() if key not in dropped_keys}
    widths = plan.layers[0]
    values |= {
        "hidden_size": plan.hidden_size,
        "num_attention_heads": widths.num_attention_heads,
        "intermediate_size": widths.intermediate_size,
    }
    return BertConfig(**values, **_runtime_settings(config))


def _runtime_settings(config: BertConfig) -> dict[str, Any]:
    # to_dict leaves out the attention implementation and renames the path.
    return {"attn_implementation": config._attn_implementation, "name_or_path": config.name_or_path}
