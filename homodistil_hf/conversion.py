"""Teacher → student and student → stock BERT, without changing a logit.

`load_teacher` reads a stock checkpoint, `to_student` copies it into the classes of `modeling.py`, `to_stock` zero-pads
a student to uniform widths and hands it back as a stock class. Which widths are possible is decided in `widths.py`;
folders on disk are written in `export.py`.
"""

from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RemoteEntryNotFoundError, StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    PreTrainedModel,
)
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, cached_file

from .compaction import replace_parameters
from .config_files import check_config_values
from .cost import count_parameters
from .hub_errors import HTTP_ERROR, HubError, comes_from_hub, explained, hub_errors
from .json_files import read_json_object
from .modeling import (
    HomoBertConfig,
    HomoBertForMaskedLM,
    HomoBertForQuestionAnswering,
    HomoBertForSequenceClassification,
    HomoBertForTokenClassification,
    HomoBertPreTrainedModel,
    layer_head_dim,
)
from .structure import PROJECTIONS
from .weight_files import check_weights
from .widths import LayerWidths, WidthPlan, shown, teacher_plan

# Stock class name → the class of its student.
STUDENT_CLASSES: dict[str, type[HomoBertPreTrainedModel]] = {
    "BertForMaskedLM": HomoBertForMaskedLM,
    "BertForPreTraining": HomoBertForMaskedLM,
    "BertForSequenceClassification": HomoBertForSequenceClassification,
    "BertForTokenClassification": HomoBertForTokenClassification,
    "BertForQuestionAnswering": HomoBertForQuestionAnswering,
}

# Student class name → the stock class of its standard export.
STOCK_CLASSES: dict[str, type[PreTrainedModel]] = {
    "HomoBertForMaskedLM": BertForMaskedLM,
    "HomoBertForSequenceClassification": BertForSequenceClassification,
    "HomoBertForTokenClassification": BertForTokenClassification,
    "HomoBertForQuestionAnswering": BertForQuestionAnswering,
}

_LOADABLE_CLASSES: dict[str, type[PreTrainedModel]] = {
    "BertForPreTraining": BertForMaskedLM,
    **{stock.__name__: stock for stock in STOCK_CLASSES.values()},
    **{student.__name__: student for student in STUDENT_CLASSES.values()},
}

# What transformers, safetensors and pickle raise over content that they do not expect.
LOADING_ERRORS = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    UnpicklingError,
    ValueError,
)

_SHOWN_CHARS = 1000  # of a name or of somebody else's message

_LAYER_PREFIX = "bert.encoder.layer.{}."

# Keys of a configuration that describe a class or a file, not the model's training.
_CLASS_KEYS = ("model_type", "architectures", "auto_map", "transformers_version", "dtype")
_STUDENT_ONLY_KEYS = ("head_dim", "softmax_head_dim", "dropped_hidden_channels", "per_layer_config")


def load_teacher_config(name_or_path: str, *, revision: str | None = None, token: str | None = None) -> BertConfig:
    """Read and check a teacher's configuration; no weights are loaded and no remote code runs.

    Args:
        name_or_path: Hub name or folder of a BERT checkpoint, or of a student checkpoint.
        revision: branch, tag or commit on the Hub.
        token: Hub token; default: the logged-in one.

    Returns:
        [`~transformers.BertConfig`] or [`HomoBertConfig`], with `architectures` naming a class that can be loaded.

    Raises:
        ValueError: no BERT, a decoder, an unsupported head or unsupported position embeddings.
        OSError: no such checkpoint.
    """
    label = f"teacher={str(name_or_path)[:_SHOWN_CHARS]!r}"
    values = _config_values(str(name_or_path), label, revision=revision, token=token)
    model_type = values.get("model_type")
    config_classes = {"bert": BertConfig, "homobert": HomoBertConfig}
    if not isinstance(model_type, str) or model_type not in config_classes:
        raise ValueError(
            f"{label} has model_type={shown(model_type)}; supported: {', '.join(config_classes)}. "
            f"Choose a BERT encoder such as google-bert/bert-base-uncased"
        )
    if model_type == "bert" and "auto_map" in values:
        raise ValueError(
            f"{label} brings its own modelling code (auto_map={shown(values['auto_map'])}), which "
            f"stock BERT would ignore; choose a checkpoint of stock transformers BERT"
        )
    config = _built_config(config_classes[model_type], values, f"{label}: {CONFIG_NAME}")
    config.name_or_path = str(name_or_path)
    config.architectures = config.architectures or ["BertForMaskedLM"]
    _refuse_architecture(config.architectures[0])
    _refuse_config(config)
    return config


def _config_values(name: str, label: str, *, revision: str | None, token: str | None) -> dict[str, Any]:
    path = Path(name)
    try:
        if path.is_dir():
            path = path / CONFIG_NAME
        elif not path.is_file():
            with hub_errors(f"{label} can't be read", token=token):
                found = cached_file(name, CONFIG_NAME, revision=revision, token=token)
            if found is None:
                raise FileNotFoundError(f"there is no {CONFIG_NAME}; name the repository of a model")
            path = Path(found)
    except HubError:
        raise
    except (OSError, ValueError) as error:
        raise OSError(f"{label} can't be read: {str(error)[:_SHOWN_CHARS]}") from error
    return read_json_object(path, f"{label}: {CONFIG_NAME}")


def _built_config(config_class: type[BertConfig], values: dict[str, Any], label: str) -> BertConfig:
    check_config_values(values, label)
    try:
        config = config_class.from_dict(values)
        teacher_plan(config)
    except LOADING_ERRORS as error:
        raise ValueError(
            f"{label} can't be used ({type(error).__name__}: {str(error)[:_SHOWN_CHARS]}); mend it"
        ) from error
    return config


def load_teacher(
    name_or_path: str, *, config: BertConfig | None = None, revision: str | None = None, token: str | None = None
) -> PreTrainedModel:
    """Load a teacher's weights in float32, in evaluation mode.

    The class comes from `config.architectures`; `BertForMaskedLM` where there is none, and for `BertForPreTraining`,
    whose next-sentence head is dropped.

    Args:
        name_or_path: Hub name or folder of a BERT checkpoint, or of a student checkpoint.
        config: what [`load_teacher_config`] returned; default: read now.
        revision: branch, tag or commit on the Hub.
        token: Hub token; default: the logged-in one.

    Returns:
        A stock `BertForX`, or a `HomoBertForX` for a student checkpoint.

    Raises:
        ValueError: see [`load_teacher_config`]; also weights that are unreadable or lack a part of the model.
        HubError: the Hub refused or can't be reached.
    """
    label = f"teacher={str(name_or_path)[:_SHOWN_CHARS]!r}"
    config = config or load_teacher_config(name_or_path, revision=revision, token=token)
    if Path(name_or_path).is_dir():
        num_parameters = count_parameters(teacher_plan(config), config) + config.num_labels * config.hidden_size
        check_weights(name_or_path, num_parameters, label)
    else:
        with hub_errors(f"{label} can't be read", token=token):
            _fetch_weights(name_or_path, revision=revision, token=token)
    model_class = _LOADABLE_CLASSES[(config.architectures or ["BertForMaskedLM"])[0]]
    try:
        model, info = model_class.from_pretrained(
            name_or_path,
            config=config,
            revision=revision or "main",
            token=token,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (*LOADING_ERRORS, HTTP_ERROR) as error:
        if comes_from_hub(error):
            raise explained(f"{label} can't be read", error, token=token) from None
        reason = f"{type(error).__name__}: {error}"[:_SHOWN_CHARS]
        raise ValueError(f"{label}: its weights are unreadable ({reason}); copy or download them again") from error
    if info["missing_keys"]:
        raise ValueError(
            f"{label} has no weights for {_some(info['missing_keys'])}, which "
            f"{model_class.__name__} needs; name the class it was trained as in config.json's architectures, or train "
            f"that head first"
        )
    return model


def _fetch_weights(name: str, *, revision: str | None, token: str | None) -> None:
    # Of a Hub that does not answer from_pretrained would say that there are no weights.
    try:
        hf_hub_download(name, SAFE_WEIGHTS_NAME, revision=revision, token=token)
    except RemoteEntryNotFoundError:
        return  # they may be in other files
    except EntryNotFoundError as error:
        if comes_from_hub(error):
            raise


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
    _refuse_architecture(class_name)
    _refuse_config(model.config)
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
        prefix = _LAYER_PREFIX.format(index)
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
        tensors |= _resized_layer(state, _LAYER_PREFIX.format(index), old, new)
    if lossy := [name for name, kept in tensors.items() if kept.count_nonzero() != state[name].count_nonzero()]:
        raise ValueError(
            f"plan={plan.to_json()} would cut weights that are not zero in {_some(lossy)}; keep the padded widths"
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


def _refuse_architecture(class_name: str) -> None:
    if class_name in _LOADABLE_CLASSES:
        return
    remedies = {
        "BertModel": "it has no head to compare logits with: load it as BertForMaskedLM if its checkpoint has that "
        "head, or train one first",
        "BertLMHeadModel": "it is a decoder: load it as BertForMaskedLM if it was trained to see both directions",
    }
    raise ValueError(
        f"teacher class {class_name} is not supported; expected one of {', '.join(_LOADABLE_CLASSES)}; "
        + remedies.get(class_name, "choose a stock BERT encoder with one of these heads")
    )


def _refuse_config(config: BertConfig) -> None:
    if config.is_decoder or config.add_cross_attention:
        raise ValueError(
            f"teacher config has is_decoder={config.is_decoder}, add_cross_attention={config.add_cross_attention}; "
            f"only encoders are supported: set both to False if the model was trained to see both directions"
        )
    # Position embeddings of other kinds were dropped from transformers' BERT, which would load them as absolute ones.
    positions = getattr(config, "position_embedding_type", "absolute")
    if positions not in (None, "absolute"):
        raise ValueError(
            f"teacher config has position_embedding_type={positions!r}; transformers' BERT only has 'absolute': "
            f"choose a teacher trained with it"
        )


def _some(names: Iterable[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
