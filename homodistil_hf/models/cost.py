"""What a model of given widths costs: parameters, multiply-accumulates, bytes, by formula; not how long it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..models.families import HEADS
from .widths import LayerWidths, WidthPlan, teacher_plan

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

COSTS = ("num_parameters", "num_encoder_parameters", "encoder_macs", "size_bytes")


def count_parameters(plan: WidthPlan, config: PreTrainedConfig, *, head: str | None = None) -> int:
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
    return embeddings + _count_norm(plan.hidden_size) + encoder + _count_head(head, plan.hidden_size, config)


def encoder_macs(plan: WidthPlan, sequence_length: int = 128) -> int:
    r"""Count the multiply-accumulates of one token that attends to `sequence_length` through all encoder layers.

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


def _count_layer(layer: LayerWidths, hidden_size: int) -> int:
    query_key_value = 3 * _count_linear(hidden_size, layer.attention_size)
    attention = query_key_value + _count_linear(layer.attention_size, hidden_size) + _count_norm(hidden_size)
    ffn_in = _count_linear(hidden_size, layer.intermediate_size)
    return attention + ffn_in + _count_linear(layer.intermediate_size, hidden_size) + _count_norm(hidden_size)


def _count_head(head: str | None, hidden_size: int, config: PreTrainedConfig) -> int:
    square = _count_linear(hidden_size, hidden_size)
    # Untied, the decoder has its own weight, and its own bias beside the head's.
    decoder = config.vocab_size * (1 if config.tie_word_embeddings else hidden_size + 2)
    task = _count_linear(hidden_size, config.num_labels)
    return {
        None: 0,
        "masked_lm": square + _count_norm(hidden_size) + decoder,
        "sequence_classification": square + task,
        "token_classification": task,
        "question_answering": task,
    }[head]


def _count_linear(num_inputs: int, num_outputs: int) -> int:
    return (num_inputs + 1) * num_outputs


def _count_norm(num_channels: int) -> int:
    return 2 * num_channels


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
    num_parameters = count_parameters(plan, config, head=HEADS[architecture].kind.name)
    return {
        "architecture": architecture,
        "plan": plan.to_dict(),
        "num_hidden_layers": len(plan.layers),
        "num_parameters": num_parameters,
        "num_encoder_parameters": count_parameters(plan, config),
        "encoder_macs": encoder_macs(plan),
        "size_bytes": 4 * num_parameters,
    }


def cost_fractions(student: Mapping[str, Any], teacher: Mapping[str, Any] | None) -> dict[str, float]:
    """Each cost of the student as a fraction of the teacher's, rounded to 4 digits; empty without a teacher."""
    return {} if teacher is None else {name: round(student[name] / teacher[name], 4) for name in COSTS}
