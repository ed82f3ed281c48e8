"""Values of a `config.json` that are refused before a model is built: too large, or attributes of the class itself."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from transformers.activations import ACT2FN

from ..files.messages import shown
from ..files.strict_json import is_number, is_whole
from .families import CONFIG_CLASSES
from .widths import LAYER_KEYS

MAX_LAYERS = 1024
MAX_WIDTH = 1 << 16
_MAX_VOCABULARY = 1 << 24
_MAX_LABELS = 1 << 17
_Bounds: TypeAlias = tuple[int, int] | tuple[float, float]

# Setting → smallest and largest value, whole numbers where these are.
_BOUNDS: dict[str, _Bounds] = {
    "vocab_size": (1, _MAX_VOCABULARY),
    "hidden_size": (1, MAX_WIDTH),
    "num_hidden_layers": (1, MAX_LAYERS),
    "num_attention_heads": (1, MAX_WIDTH),
    "intermediate_size": (1, 16 * MAX_WIDTH),
    "max_position_embeddings": (1, _MAX_VOCABULARY),
    "type_vocab_size": (1, _MAX_VOCABULARY),
    "chunk_size_feed_forward": (0, _MAX_VOCABULARY),
    "num_labels": (1, _MAX_LABELS),
    "head_dim": (1, MAX_WIDTH),
    "softmax_head_dim": (1, MAX_WIDTH),
    "pad_token_id": (0, _MAX_VOCABULARY),
    "hidden_dropout_prob": (0.0, 1.0),
    "attention_probs_dropout_prob": (0.0, 1.0),
    "classifier_dropout": (0.0, 1.0),
    "initializer_range": (0.0, 1000.0),
    "layer_norm_eps": (0.0, 1.0),
}

_DTYPES = ("float16", "bfloat16", "float32", "float64")
_ATTENTIONS = ("eager", "sdpa")  # others may be code to download

_CHOICES: dict[str, tuple[str, ...]] = {
    "hidden_act": tuple(ACT2FN),
    "dtype": _DTYPES,
    "torch_dtype": _DTYPES,
    "problem_type": ("regression", "single_label_classification", "multi_label_classification"),
    "attn_implementation": _ATTENTIONS,
    "_attn_implementation": _ATTENTIONS,
}

_NEVER_NULL = {"chunk_size_feed_forward"}  # of others, transformers says where null is a mistake
_SETTABLE_PROPERTIES = {"num_labels", "output_attentions", "torch_dtype", "name_or_path", "per_layer_config"}
_FIXED = {"attribute_map", "sub_configs", "sub_configs_defaults", "per_layer_attributes"}


def check_config_values(values: Mapping[str, Any], label: str) -> None:
    """Refuse values that a BERT's configuration can't have.

    Args:
        values: content of `config.json`.
        label: first words of every message.

    Raises:
        ValueError: the first value that is out of bounds.

    Example:
    ```python
    >>> check_config_values({"hidden_size": 32, "num_hidden_layers": 2}, "config.json")
    >>> check_config_values({"hidden_size": "32"}, "config.json")
    Traceback (most recent call last):
    ...
    ValueError: config.json has hidden_size='32'; expected a whole number from 1 to 65536

    ```
    """
    for name, value in values.items():
        _refuse_shadow(name, label)
        if (value is not None or name in _NEVER_NULL) and name in _RULES:
            is_valid, expected = _RULES[name]
            if not is_valid(value):
                raise ValueError(f"{label} has {name}={shown(value)}; expected {expected}")
    dropped, size = values.get("dropped_hidden_channels"), values.get("hidden_size")
    if dropped is not None and not _are_channels(dropped, MAX_WIDTH if size is None else size):
        expected = "different channels, some left"
        raise ValueError(f"{label} has dropped_hidden_channels={shown(dropped)}; expected {expected}")
    padding, vocabulary = values.get("pad_token_id"), values.get("vocab_size")
    if padding is not None and vocabulary is not None and padding >= vocabulary:
        raise ValueError(f"{label} has pad_token_id={padding}; expected less than vocab_size={vocabulary}")


def _refuse_shadow(name: str, label: str) -> None:
    """A key that would take the place of one of the class's methods or rules."""
    found = [getattr(config, name, None) for config in CONFIG_CLASSES.values() if name not in _SETTABLE_PROPERTIES]
    is_own = any(callable(attribute) or isinstance(attribute, property) for attribute in found)
    if is_own or name in _FIXED or name.startswith("__"):
        raise ValueError(f"{label} has the key {shown(name)}, which belongs to the class itself; remove it")


def _is_within(value: Any, bounds: _Bounds) -> bool:
    has_type = is_whole(value) if isinstance(bounds[0], int) else is_number(value)
    return has_type and bounds[0] <= value <= bounds[1]


def _is_label_map(value: Any) -> bool:
    return isinstance(value, dict) and 0 < len(value) <= _MAX_LABELS and all(map(_is_index, value))


def _is_per_layer(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MAX_LAYERS
        and all(
            _is_index(index)
            and isinstance(widths, dict)
            and all(name in LAYER_KEYS and _is_within(width, _BOUNDS[name]) for name, width in widths.items())
            for index, widths in value.items()
        )
    )


def _is_index(key: Any) -> bool:
    text = str(key)  # JSON's keys are strings, those of a configuration in memory whole numbers
    return text.isascii() and text.isdigit() and len(text) <= 9


def _are_channels(value: Any, size: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) < size
        and all(_is_within(channel, (0, size - 1)) for channel in value)
        and len(set(value)) == len(value)
    )


def _bounded(bounds: _Bounds) -> tuple[Callable[[Any], bool], str]:
    kind = "whole number" if isinstance(bounds[0], int) else "number"
    return lambda value: _is_within(value, bounds), f"a {kind} from {bounds[0]:.9g} to {bounds[1]:.9g}"


def _one_of(choices: tuple[str, ...]) -> tuple[Callable[[Any], bool], str]:
    return lambda value: isinstance(value, str) and value in choices, f"one of {', '.join(choices)}"


# Setting → a check, and how a message calls what passes it.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **{name: _bounded(bounds) for name, bounds in _BOUNDS.items()},
    **{name: _one_of(choices) for name, choices in _CHOICES.items()},
    "architectures": (
        lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
        "a list of class names",
    ),
    "id2label": (_is_label_map, f"an object of up to {_MAX_LABELS} whole numbers and their names"),
    "label2id": (lambda value: isinstance(value, dict), "an object"),
    "quantization_config": (lambda value: False, "none: only unquantized weights can be pruned"),
    "per_layer_config": (
        _is_per_layer,
        f"an object: layer number → an object of some of {', '.join(LAYER_KEYS)}",
    ),
}
