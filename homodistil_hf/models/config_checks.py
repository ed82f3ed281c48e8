"""Checks of a `config.json` beyond transformers' own: huge widths, unknown names, keys in the place of methods.

transformers' strict configurations check the types of all other settings.
"""

from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedConfig

from ..files.messages import short_repr
from ..files.strict_json import is_int, is_number
from .architectures import ARCHITECTURES
from .widths import LAYER_KEYS

MAX_LAYERS = 1024
MAX_WIDTH = 1 << 16
_MAX_VOCABULARY = 1 << 24

# Setting → largest value, as memory is taken for it before any weight is read; the smallest is 1.
_LARGEST = {
    "vocab_size": _MAX_VOCABULARY,
    "hidden_size": MAX_WIDTH,
    "embedding_size": MAX_WIDTH,
    "num_hidden_layers": MAX_LAYERS,
    "num_attention_heads": MAX_WIDTH,
    "intermediate_size": 16 * MAX_WIDTH,
    "max_position_embeddings": _MAX_VOCABULARY,
    "type_vocab_size": _MAX_VOCABULARY,
    "num_labels": 1 << 17,
    "head_dim": MAX_WIDTH,
    "softmax_head_dim": MAX_WIDTH,
    "image_size": 1 << 13,
    "patch_size": 1 << 13,
    "num_channels": 1 << 10,
}
_LARGEST |= {f"decoder_{name}": most for name, most in _LARGEST.items()}
_LARGEST |= {
    architecture.named(name): most for architecture in ARCHITECTURES.values() for name, most in _LARGEST.items()
}
_LAYER_NAMES = {
    *LAYER_KEYS,
    *(architecture.named(name) for architecture in ARCHITECTURES.values() for name in LAYER_KEYS),
}
_ATTENTIONS = (None, "eager", "sdpa")  # others may be code to download
_PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
_DTYPES = (None, "float16", "bfloat16", "float32", "float64")  # others are looked up among torch's attributes

_SHARES = (
    "classifier_dropout",
    "layer_norm_eps",
    *(name for architecture in ARCHITECTURES.values() for name in architecture.dropouts),
)

# Setting → a check, and words for the values that pass it.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "attn_implementation": (lambda value: value in _ATTENTIONS, "eager or sdpa"),
    "_attn_implementation": (lambda value: value in _ATTENTIONS, "eager or sdpa"),
    "dtype": (lambda value: value in _DTYPES, f"one of {', '.join(filter(None, _DTYPES))}"),
    "torch_dtype": (lambda value: value in _DTYPES, f"one of {', '.join(filter(None, _DTYPES))}"),
    "architectures": (
        lambda value: value is None or (isinstance(value, list) and all(isinstance(name, str) for name in value)),
        "a list of class names",
    ),
    "problem_type": (lambda value: value in (None, *_PROBLEM_TYPES), f"one of {', '.join(_PROBLEM_TYPES)}"),
    **dict.fromkeys(
        (architecture.named("hidden_act") for architecture in ARCHITECTURES.values()),
        (lambda value: _is_activation(value), "an activation of transformers, such as gelu or relu"),
    ),
    "quantization_config": (lambda value: value is None, "none: only unquantized weights can be pruned"),
    "per_layer_config": (
        lambda value: value is None or _is_per_layer(value),
        f"an object: layer number → an object of some of {', '.join(sorted(_LAYER_NAMES))}",
    ),
    "rotary_pairs": (
        lambda value: value is None or (isinstance(value, dict) and all(map(_are_rising, value.values()))),
        "an object: type of layer → rising whole numbers",
    ),
    **dict.fromkeys(_SHARES, (lambda value: not is_number(value) or 0 <= value <= 1, "a number from 0 to 1")),
}


def check_config_values(values: Mapping[str, Any], config_class: type[PreTrainedConfig], label: str) -> None:
    """Refuse the content of a `config.json` before transformers makes a configuration of it.

    Raises:
        ValueError: a value is out of bounds, or a key would take the place of a method.

    Example:
    ```python
    >>> from transformers import BertConfig
    >>> check_config_values({"hidden_size": 32, "num_hidden_layers": 2}, BertConfig, "config.json")
    >>> check_config_values({"hidden_size": 320_000}, BertConfig, "config.json")
    Traceback (most recent call last):
    ...
    ValueError: config.json has hidden_size=320000; expected a whole number from 1 to 65536

    ```
    """
    for name, value in values.items():
        found = getattr(config_class, name, None)
        if callable(found) or isinstance(found, dict) or (isinstance(found, property) and found.fset is None):
            raise ValueError(f"{label} has the key {short_repr(name)}, which belongs to the class itself; remove it")
        if not _is_in_bounds(name, value):
            expected = f"a whole number from {_least(name)} to {_LARGEST[name]}"
            raise ValueError(f"{label} has {name}={short_repr(value)}; expected {expected}")
        if name in _RULES and not _RULES[name][0](value):
            raise ValueError(f"{label} has {name}={short_repr(value)}; expected {_RULES[name][1]}")


def _is_in_bounds(name: str, value: Any) -> bool:
    if name not in _LARGEST or value is None:
        return True
    is_pair = name == "image_size" and isinstance(value, list) and len(value) == 2  # height, width
    return all(is_int(size) and _least(name) <= size <= _LARGEST[name] for size in (value if is_pair else [value]))


def _least(name: str) -> int:
    return 0 if name == "type_vocab_size" else 1  # an architecture may have no segments


def _is_activation(value: Any) -> bool:
    if value == "gelu":  # almost always; the import takes a second
        return True
    from transformers.activations import ACT2FN

    return isinstance(value, str) and value in ACT2FN


def _are_rising(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_int, value)) and value == sorted(set(value))


def _is_per_layer(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MAX_LAYERS
        and all(isinstance(widths, dict) and widths.keys() <= _LAYER_NAMES for widths in value.values())
        and all(is_int(item[1]) and _is_in_bounds(*item) for widths in value.values() for item in widths.items())
    )
