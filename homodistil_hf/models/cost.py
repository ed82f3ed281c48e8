"""What a model of given widths costs: parameters, multiply-accumulates, bytes, by formula; not how long it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from ..files.messages import nearest_name, shown
from ..models.families import HEADS
from .widths import LayerWidths, WidthPlan, teacher_plan

# Bytes of one weight in the types that safetensors files of encoders come in.
BYTES_PER_PARAMETER = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one model costs.

    Args:
        num_parameters (`int`): All weights and biases, tied ones once.
        encoder_macs (`int`): Multiply-accumulates of one token through all encoder layers, see `encoder_macs`.
        size_bytes (`int`): Bytes of the parameters; a safetensors file adds a header of some kilobytes.
    """

    num_parameters: int
    encoder_macs: int
    size_bytes: int


def count_parameters(
    plan: WidthPlan, config: PreTrainedConfig, *, head: str | None = None, num_labels: int | None = None
) -> int:
    """Count the parameters of a BERT with the widths of `plan`, exactly and without building it; tied ones once.

    Args:
        plan: of the model; uneven ones give the compact form, `plan.padded()` the stock one.
        config: the rest of the shape: `vocab_size`, `max_position_embeddings`, `type_vocab_size`,
            `tie_word_embeddings`, and `num_labels` of a task head.
        head: `None` for embeddings and encoder, without pooler; or `"masked_lm"`, `"sequence_classification"` (its
            pooler included), `"token_classification"`, `"question_answering"`.

    Example:
    ```python
    >>> from transformers import BertConfig
    >>> from homodistil_hf.models.widths import teacher_plan
    >>> count_parameters(teacher_plan(BertConfig()), BertConfig(), head="masked_lm")
    109514298

    ```
    """
    embeddings = (config.vocab_size + config.max_position_embeddings + config.type_vocab_size) * plan.hidden_size
    encoder = sum(_count_layer(layer, plan.hidden_size) for layer in plan.layers)
    outputs = config.num_labels if num_labels is None else num_labels
    return embeddings + _count_norm(plan.hidden_size) + encoder + _count_head(head, plan.hidden_size, config, outputs)


def encoder_macs(plan: WidthPlan, sequence_length: int = 128) -> int:
    """Count the multiply-accumulates of one token that attends to `sequence_length` through all encoder layers.

    Linear layers and the two attention products are included; embeddings, heads, biases, LayerNorm and softmax are
    not. With hidden size \\(d\\), attention size \\(a_l\\), FFN size \\(f_l\\) and \\(n\\) tokens:
    \\(\sum_l 4 d a_l + 2 d f_l + 2 n a_l\\).

    Example:
    ```python
    >>> encoder_macs(WidthPlan.uniform(768, 12, LayerWidths(12, 64, 3072)))
    87293952

    ```
    """
    return sum(
        4 * plan.hidden_size * layer.attention_size
        + 2 * plan.hidden_size * layer.intermediate_size
        + 2 * sequence_length * layer.attention_size
        for layer in plan.layers
    )


def size_bytes(num_parameters: int, dtype: str = "float32") -> int:
    """Return the bytes that `num_parameters` weights take in `dtype`.

    Args:
        num_parameters (`int`): Weights, tied ones once.
        dtype (`str`): `"float64"`, `"float32"`, `"float16"` or `"bfloat16"`.

    Returns:
        `int`: Bytes, without the header of a file.

    Raises:
        ValueError: `dtype` is unknown.

    Example:
    ```python
    >>> size_bytes(1000, "bfloat16")
    2000

    ```
    """
    if dtype not in BYTES_PER_PARAMETER:
        nearest = nearest_name(dtype, BYTES_PER_PARAMETER)
        raise ValueError(f"dtype={shown(dtype)} is unknown; nearest valid: {nearest!r}")
    return num_parameters * BYTES_PER_PARAMETER[dtype]


def plan_cost(
    plan: WidthPlan,
    config: PreTrainedConfig,
    *,
    head: str | None = None,
    num_labels: int | None = None,
    dtype: str = "float32",
) -> Cost:
    """Return parameters, encoder MACs and bytes of a model with the widths of `plan`.

    An uneven plan has two costs: `plan_cost(plan, …)` is the compact export's, `plan_cost(plan.padded(), …)` the
    standard export's. They are equal where `plan.padded() == plan`.

    Args:
        plan (`WidthPlan`): Widths of the model.
        config (`PreTrainedConfig`): The rest of the shape, see `count_parameters`.
        head (`str`, *optional*): The head that is counted along, see `count_parameters`.
        num_labels (`int`, *optional*): Outputs of a task head, `config.num_labels` by default.
        dtype (`str`): Type of the stored weights, see `size_bytes`.

    Returns:
        `Cost`: The three numbers; encoder MACs are at 128 tokens.
    """
    num_parameters = count_parameters(plan, config, head=head, num_labels=num_labels)
    return Cost(num_parameters, encoder_macs(plan), size_bytes(num_parameters, dtype))


def _count_layer(layer: LayerWidths, hidden_size: int) -> int:
    query_key_value = 3 * _count_linear(hidden_size, layer.attention_size)
    attention = query_key_value + _count_linear(layer.attention_size, hidden_size) + _count_norm(hidden_size)
    ffn_in = _count_linear(hidden_size, layer.intermediate_size)
    return attention + ffn_in + _count_linear(layer.intermediate_size, hidden_size) + _count_norm(hidden_size)


def _count_head(head: str | None, hidden_size: int, config: PreTrainedConfig, num_labels: int) -> int:
    square = _count_linear(hidden_size, hidden_size)
    # Untied, the decoder has its own weight, and its own bias beside the head's.
    decoder = config.vocab_size * (1 if config.tie_word_embeddings else hidden_size + 2)
    task = _count_linear(hidden_size, num_labels)
    sizes = {
        None: 0,
        "masked_lm": square + _count_norm(hidden_size) + decoder,
        "sequence_classification": square + task,
        "token_classification": task,
        "question_answering": task,
    }
    if head not in sizes:
        nearest = nearest_name(head, filter(None, sizes))
        raise ValueError(f"head={shown(head)} is unknown; nearest valid: {nearest!r}, or None for no head")
    return sizes[head]


def _count_linear(num_inputs: int, num_outputs: int) -> int:
    return (num_inputs + 1) * num_outputs


def _count_norm(num_channels: int) -> int:
    return 2 * num_channels


COSTS = ("num_parameters", "num_encoder_parameters", "encoder_macs", "size_bytes")


def model_facts(model: PreTrainedModel) -> dict[str, Any]:
    """Count what a model, of a stock class or a student, is.

    Returns:
        `architecture`, `plan`, `num_hidden_layers` and the four `COSTS`: parameters with tied ones once, those of
        embeddings and encoder alone, multiply-accumulates a token at 128 tokens, bytes of all parameters.
    """
    plan = teacher_plan(model.config)
    parameters = list(model.parameters())
    encoder = [parameter for name, parameter in model.base_model.named_parameters() if not name.startswith("pooler.")]
    return {
        "architecture": type(model).__name__,
        "plan": plan.to_dict(),
        "num_hidden_layers": len(plan.layers),
        "num_parameters": sum(parameter.numel() for parameter in parameters),
        "num_encoder_parameters": sum(parameter.numel() for parameter in encoder),
        "encoder_macs": encoder_macs(plan),
        "size_bytes": sum(parameter.numel() * parameter.element_size() for parameter in parameters),
    }


def planned_facts(config: PreTrainedConfig, architecture: str, plan: WidthPlan | None = None) -> dict[str, Any]:
    """Compute what [`model_facts`] would count in float32, without a model.

    Args:
        config: all of the shape but the widths.
        architecture: stock or student class.
        plan: the widths; default: those of `config`.
    """
    plan = plan or teacher_plan(config)
    cost = plan_cost(plan, config, head=HEADS[architecture].kind.name)
    return {
        "architecture": architecture,
        "plan": plan.to_dict(),
        "num_hidden_layers": len(plan.layers),
        "num_parameters": cost.num_parameters,
        "num_encoder_parameters": plan_cost(plan, config).num_parameters,
        "encoder_macs": cost.encoder_macs,
        "size_bytes": cost.size_bytes,
    }


def cost_fractions(student: Mapping[str, Any], teacher: Mapping[str, Any] | None) -> dict[str, float]:
    """Each cost of the student as a fraction of the teacher's, rounded to 4 digits; empty without a teacher."""
    return {} if teacher is None else {name: round(student[name] / teacher[name], 4) for name in COSTS}
