"""Is this `config.json` of an encoder one that a model may be built from? Types, bounds, and no way around the class.

transformers turns every key into an attribute and every number into memory, so values are looked at before it sees
them. Which architectures are supported is `conversion.py`'s; whether weights fit the numbers is `weight_files.py`'s.
"""

from collections.abc import Callable, Mapping
from typing import Any

from transformers.activations import ACT2FN

from ..files.messages import shown
from .families.modeling_homobert import HomoBertConfig
from .widths import LAYER_KEYS

MAX_LAYERS = 1024


MAX_WIDTH = 1 << 16


_MAX_VOCABULARY = 1 << 24


_MAX_LABELS = 1 << 17


# Setting → smallest and largest whole number.
_COUNTS = {
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
}


_NUMBERS = {
    "hidden_dropout_prob": (0.0, 1.0),
    "attention_probs_dropout_prob": (0.0, 1.0),
    "classifier_dropout": (0.0, 1.0),
    "initializer_range": (0.0, 1000.0),
    "layer_norm_eps": (0.0, 1.0),
}


_FLAGS = ("is_decoder", "add_cross_attention", "tie_word_embeddings", "use_cache", "is_encoder_decoder", "return_dict")


_CHOICES: dict[str, tuple[str, ...]] = {
    "hidden_act": tuple(ACT2FN),
    "dtype": ("float16", "bfloat16", "float32", "float64"),
    "torch_dtype": ("float16", "bfloat16", "float32", "float64"),
    "problem_type": ("regression", "single_label_classification", "multi_label_classification"),
    # Others may be code to download.
    "attn_implementation": ("eager", "sdpa"),
    "_attn_implementation": ("eager", "sdpa"),
}


_MAY_BE_NULL = {
    "head_dim",
    "softmax_head_dim",
    "pad_token_id",
    "classifier_dropout",
    "num_labels",
    *_CHOICES,
} - {"hidden_act"}


_SETTABLE_PROPERTIES = {"num_labels", "output_attentions", "torch_dtype", "name_or_path", "per_layer_config"}


_FIXED = {"attribute_map", "sub_configs", "sub_configs_defaults", "per_layer_attributes"}


def check_config_values(values: Mapping[str, Any], label: str) -> None:
    """Refuse values that a BERT's configuration can't have.

    Args:
        values: content of `config.json`.
        label: first words of every message.

    Raises:
        ValueError: the first value that is of a wrong type or out of bounds.

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
        if value is None and name in _MAY_BE_NULL:
            continue
        rule = _rule(name)
        if rule is not None:
            _check(label, name, value, is_valid=rule[0], expected=rule[1])
    _check_rest(values, label)


def _rule(name: str) -> tuple[Callable[[Any], bool], str] | None:
    """What a plain setting may be: a check, and how a message calls it."""
    if name in _COUNTS:
        low, high = _COUNTS[name]
        return lambda value: _is_count(value, low, high), f"a whole number from {low} to {high}"
    if name in _NUMBERS:
        least, most = _NUMBERS[name]
        return _is_number(least, most), f"a number from {least:g} to {most:g}"
    if name in _FLAGS:
        return lambda value: isinstance(value, bool), "true or false"
    if name in _CHOICES:
        return _is_one_of(_CHOICES[name]), f"one of {', '.join(_CHOICES[name])}"
    return None


def _check_rest(values: Mapping[str, Any], label: str) -> None:
    """What is made of more than one number."""
    for name, is_valid, expected in (
        ("architectures", _is_list_of_names, "a list of class names"),
        ("auto_map", _is_object, "an object"),
        ("id2label", _is_label_map, f"an object of up to {_MAX_LABELS} whole numbers and their names"),
        ("label2id", _is_object, "an object"),
        ("quantization_config", lambda value: False, "none: only unquantized weights can be pruned"),
        ("per_layer_config", _is_per_layer, f"an object: layer number → an object of some of {', '.join(LAYER_KEYS)}"),
        ("dropped_hidden_channels", _are_channels(values.get("hidden_size")), "different channels, some left"),
    ):
        if values.get(name) is not None:
            _check(label, name, values[name], is_valid=is_valid, expected=expected)
    padding, vocabulary = values.get("pad_token_id"), values.get("vocab_size")
    if padding is not None and vocabulary is not None and padding >= vocabulary:
        raise ValueError(f"{label} has pad_token_id={padding}; expected less than vocab_size={vocabulary}")


def _check(label: str, name: str, value: Any, *, is_valid: Callable[[Any], bool], expected: str) -> None:
    if not is_valid(value):
        raise ValueError(f"{label} has {name}={shown(value)}; expected {expected}")


def _refuse_shadow(name: str, label: str) -> None:
    """A key that would take the place of one of the class's methods or rules."""
    attribute = getattr(HomoBertConfig, name, None) if name not in _SETTABLE_PROPERTIES else None
    if callable(attribute) or isinstance(attribute, property) or name in _FIXED or name.startswith("__"):
        raise ValueError(f"{label} has the key {shown(name)}, which belongs to the class itself; remove it")


def _is_count(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_one_of(choices: tuple[str, ...]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in choices


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_label_map(value: Any) -> bool:
    return isinstance(value, dict) and 0 < len(value) <= _MAX_LABELS and all(map(_is_index, value))


def _is_per_layer(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MAX_LAYERS
        and all(
            _is_index(index)
            and isinstance(widths, dict)
            and all(name in LAYER_KEYS and _is_count(width, *_COUNTS[name]) for name, width in widths.items())
            for index, widths in value.items()
        )
    )


def _is_index(key: Any) -> bool:
    text = str(key)  # JSON's keys are strings, those of a configuration in memory whole numbers
    return text.isascii() and text.isdigit() and len(text) <= 9


def _are_channels(hidden_size: Any) -> Callable[[Any], bool]:
    size = hidden_size if _is_count(hidden_size, *_COUNTS["hidden_size"]) else MAX_WIDTH

    def are_channels(value: Any) -> bool:
        return (
            isinstance(value, list)
            and len(value) < size
            and all(_is_count(channel, 0, size - 1) for channel in value)
            and len(set(value)) == len(value)
        )

    return are_channels
