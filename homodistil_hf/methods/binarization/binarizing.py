"""Float model → model of bits, other numbers of bits, and the packed form.

`models/architectures/modeling_binarybert.py` has the layers, `stages.py` trains them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from ...models.architectures import architecture_of
from ...models.architectures.bert import BERT
from ...models.architectures.modeling_binarybert import (
    BinaryBertConfig,
    BinaryBertForQuestionAnswering,
    BinaryBertForSequenceClassification,
    BinaryBertForTokenClassification,
    BinaryBertModel,
    BinaryEmbedding,
    BinaryLinear,
    ElasticQuantizer,
    pack,
    weight_scale,
    weight_signs,
)
from ...models.architectures.modeling_layerwise import encoder_layers
from ...models.conversion import CLASS_KEYS, to_student

_CLASSES = {
    "ForSequenceClassification": BinaryBertForSequenceClassification,
    "ForTokenClassification": BinaryBertForTokenClassification,
    "ForQuestionAnswering": BinaryBertForQuestionAnswering,
    "Model": BinaryBertModel,
}
"""End of a class's name → its form of bits."""


def to_binary(
    model: PreTrainedModel,
    *,
    activation_bits: int,
    two_sets: bool = True,
    elastic: bool = True,
    dropout: float = 0.0,
) -> PreTrainedModel:
    """Copy a model into layers of bits, with its float weights behind them.

    Args:
        model: BERT or a student of ours with a sequence- or token-classification or question-answering head or none,
            or one of bits already, whose learned scales and thresholds stay until [`calibrate`] sets them anew.
        activation_bits: 1, 2, 4 or 8; 32 leaves activations float.
        two_sets: whether inputs that are never negative take values of {0, …}.
        elastic: whether scales and thresholds of activations learn.
        dropout: of hidden states, attention's shares and the classifier's input while it is trained, in [0, 1).

    Raises:
        ValueError: another head or architecture, or neurons of zeros that pad a layer.
    """
    # a model of bits has float weights behind them: with its scales they are what fewer bits start from
    source = model
    if not isinstance(model.config, BinaryBertConfig):
        source = to_student(model, argument="model", needs_head=False)
        if architecture_of(source.config) is not BERT:
            raise ValueError(
                f"model={type(model).__name__} is no BERT, and layers of bits are BERT's; take a BERT, or a "
                "student of one"
            )
        layers: list[Any] = list(encoder_layers(source))
        # a unit of padding has a row of zeros; bits would make it ±mean |W|
        for place, units in (("intermediate.dense", "FFN neurons"), ("attention.self.value", "channels of heads")):
            if num_padded := sum(int((layer.get_submodule(place).weight == 0).all(1).sum()) for layer in layers):
                raise ValueError(
                    f"model={type(model).__name__} has {num_padded} {units} that are padding, which bits would bring "
                    "to life; take its compact export, or a student of a plan without padding"
                )
    if getattr(source.config, "packed", False):
        raise ValueError("model is packed, and bits alone can't be trained; take the folder that it was packed from")
    kind = next((kind for end, kind in _CLASSES.items() if type(source).__name__.endswith(end)), None)
    if kind is None:
        raise ValueError(
            f"model={type(model).__name__} is no model that is binarized; expected one of …{', …'.join(_CLASSES)}"
        )
    changes: dict[str, Any] = {"activation_bits": activation_bits, "two_sets": two_sets, "elastic": elastic}
    changes |= dict.fromkeys(BERT.dropouts, dropout) | {"classifier_dropout": None}  # None: as hidden states
    student = kind(_config(source.config, changes))
    student.load_state_dict(source.state_dict(), strict=False)  # a float model has no quantizers
    return student


def to_packed(model: PreTrainedModel) -> PreTrainedModel:
    """Copy a trained model of bits into one that holds nothing but bits, scales and what stays float.

    Raises:
        ValueError: not a model of bits.
    """
    if not isinstance(model.config, BinaryBertConfig) or model.config.packed:
        raise ValueError(f"model={type(model).__name__} has no float weights behind bits; expected a binarized model")
    packed = type(model)(_config(model.config, {"packed": True}))
    state = dict(model.state_dict())
    for name, module in model.named_modules():
        # bits and scale take the place of the float matrix; biases and all else stay as they are
        if isinstance(module, BinaryLinear | BinaryEmbedding):
            weight = state.pop(f"{name}.weight")
            state[f"{name}.packed"] = pack(weight_signs(weight))
            state[f"{name}.weight_scale"] = weight_scale(weight).clamp(min=1e-8)
    packed.load_state_dict(state)
    return packed.eval()


@torch.no_grad()
def calibrate(model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> None:
    """Set the scales of all activations, layer after layer, from a first batch without labels."""
    was_training = model.training
    model.eval()
    quantizers = [module for module in model.modules() if isinstance(module, ElasticQuantizer)]
    for quantizer in quantizers:
        quantizer.calibrates = True
    try:
        model(**batch)
    finally:
        for quantizer in quantizers:
            quantizer.calibrates = False
    model.train(was_training)


def _config(config: Any, changes: Mapping[str, Any]) -> BinaryBertConfig:
    values = {name: value for name, value in config.to_dict().items() if name not in CLASS_KEYS}
    return BinaryBertConfig(**values | dict(changes))
