"""Load and validate an encoder from the Hub or a folder: a teacher, a student, an export or a checkpoint.

transformers' strict configurations check the types of most settings; huge widths, unknown names and keys in the place
of methods are refused here, before any weight is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RemoteEntryNotFoundError
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils import logging as transformers_logging

from ..files.folders import refuse_missing
from ..files.hub_errors import comes_from_hub, explained, hub_errors
from ..files.messages import join_some, short_repr
from ..files.model_files import model_file
from ..files.strict_json import fits, is_int, read_json_object
from ..files.tensors import check_weights
from .architectures import ARCHITECTURES, HEADS, MODEL_TYPES, architecture_of, config_class, max_tokens
from .architectures.architecture import SEQUENCE_CLASSIFICATION
from .cost import count_parameters
from .widths import WidthPlan, widths_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODULES_FILE = "modules.json"
"""Lists the modules of a model of which an encoder is one; sentence-transformers writes it."""
SENTENCE_FILE = "config_sentence_transformers.json"
"""Settings that sentence-transformers writes beside a model of its own."""
OUTPUT_KEYS = ("return_dict", "output_attentions", "output_hidden_states", "torchscript")
"""Keys of a configuration that change what a model returns; losses ask for what they need."""
_SHOWN_CHARS = 1000  # of a name or of somebody else's message
_MISSING_HEAD = (
    "name the class it was trained as in config.json's architectures, or train that head first; an embedding model's "
    "trainer is EmbeddingDistilTrainer"
)
_HEAD_NAMES = [head.kind.auto_class.removeprefix("AutoModelFor") for head in next(iter(ARCHITECTURES.values())).heads]

MAX_LAYERS = 1024
_LARGEST_WEIGHT = 1e19
"""Squares of larger weights, as in the norm of their gradients, are beyond float32."""
_MAX_SIZE = 1 << 24
_SIZES = ("size", "dim", "heads", "embeddings", "channels", "labels", "layers")
"""Last words of the settings that memory is taken for before any weight is read."""
_ATTENTIONS = (None, "eager", "sdpa")  # others may be code to download
# Setting → a check, and words for the values that pass it.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "attn_implementation": (lambda value: value in _ATTENTIONS, "eager or sdpa"),
    "_attn_implementation": (lambda value: value in _ATTENTIONS, "eager or sdpa"),
    "architectures": (lambda value: value is None or fits(value, [str]), "a list of class names"),
    "transformers_weights": (lambda value: value is None, "none: weights have their usual names"),
    "quantization_config": (lambda value: value is None, "none: only unquantized weights can be pruned"),
    "per_layer_config": (
        lambda value: value is None or fits(value, {...: {...: int}}),
        "an object: layer number → width → whole number",
    ),
    "rotary_pairs": (
        lambda value: (
            value is None
            or (fits(value, {...: [int]}) and all(pairs == sorted(set(pairs)) for pairs in value.values()))
        ),
        "an object: type of layer → rising whole numbers",
    ),
}


def plain_name(model: Any) -> Any:
    """Return the text of a path; a name and a loaded model as they are."""
    return os.fspath(model) if isinstance(model, os.PathLike) else model


def load_encoder_config(
    name_or_path: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    argument: str = "teacher",
    needs_head: bool = True,
) -> PreTrainedConfig:
    """Read and check the configuration of an encoder; no weights are loaded and no remote code runs.

    Args:
        name_or_path: Hub name or folder of a checkpoint of a known architecture, or of a student.
        revision: branch, tag or commit on the Hub.
        token: Hub token; default: the logged-in one.
        argument: the user's name for it, first word of every message.
        needs_head: False: an encoder without a head is read, too, and of sentence-transformers the encoder alone.

    Returns:
        The configuration of a stock model or a student; its `architectures` name a class that can be loaded.

    Raises:
        ValueError: an unknown architecture, a decoder, an unsupported head or unsupported position embeddings.
        OSError: no such checkpoint.
    """
    label = f"{argument}={str(name_or_path)[:_SHOWN_CHARS]!r}"
    values = config_values(str(name_or_path), label, revision=revision, token=token)
    model_type = values.get("model_type")
    if model_type is None:
        raise ValueError(
            f"{label}: its {CONFIG_NAME} has no model_type; add the one that it was trained as, one of "
            f"{', '.join(ARCHITECTURES)}"
        )
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise ValueError(
            f"{label} has model_type={short_repr(model_type)}; supported: {', '.join(ARCHITECTURES)}, and their "
            "students. Choose an encoder of one of these types, such as google-bert/bert-base-uncased"
        )
    config = checked_config(values, config_class(model_type), label)
    config.name_or_path = str(name_or_path)
    config.architectures = config.architectures or [architecture_of(config).heads[0].stock_name]
    encoder = architecture_of(config).encoder.stock_name
    if not needs_head and model_file(str(name_or_path), MODULES_FILE, token=token):
        config.architectures = [encoder]  # whatever head its file names
    if needs_head and config.architectures[0] == encoder and model_file(str(name_or_path), MODULES_FILE, token=token):
        raise ValueError(
            f"{label} is an embedding model ({MODULES_FILE}), without a head; its trainer is EmbeddingDistilTrainer, "
            "its command homodistil distill"
        )
    if needs_head or config.architectures[0] != encoder:
        refuse_architecture(config.architectures[0], argument)
    refuse_config(config, argument)
    head = HEADS.get(config.architectures[0])
    if head is not None and head.kind is SEQUENCE_CLASSIFICATION and config.num_labels == 1:
        _keep_activation(config, name_or_path, revision, token)
    return config


def config_values(
    name: str | Path, label: str, *, revision: str | None = None, token: str | None = None
) -> dict[str, Any]:
    """Read the `config.json` of a folder or a Hub name; `label` begins every message.

    Raises:
        ValueError: it holds no JSON object.
        OSError: there is no such folder or repository, or no `config.json` in it.
    """
    refuse_missing(str(name), label)
    is_file, problem = os.path.isfile(name), f"{label} can't be read"
    if revision is not None and os.path.exists(name):
        raise ValueError(f"{label} is no name on the Hub, and has no revision {short_repr(revision)}; leave that out")
    with hub_errors(problem, token=token):
        file = str(name) if is_file else cached_file(str(name), CONFIG_NAME, revision=revision, token=token)
    if file is None and os.path.isdir(name):
        names = os.listdir(name)
        holds = f"it holds {join_some(names)}" if names else "it is empty"
        raise OSError(f"{problem}: there is no {CONFIG_NAME} ({holds}); name the folder of a model")
    if file is None:
        raise OSError(f"{problem}: there is no {CONFIG_NAME}; name the repository of a model")
    return read_json_object(Path(file), f"{label}: {CONFIG_NAME}")


def checked_config(values: dict[str, Any], kind: type[PreTrainedConfig], label: str) -> PreTrainedConfig:
    """Make a configuration of the content of a `config.json`, within bounds; every model is loaded with such a one.

    `label`, argument and value, begins every message.

    Raises:
        ValueError: modelling code of its own beside a stock class, or a setting that can't be used.
    """
    if "auto_map" in values and kind.__module__.startswith("transformers."):
        raise ValueError(
            f"{label} brings its own modelling code (auto_map={short_repr(values['auto_map'])}), which "
            f"transformers' own class would ignore; choose a checkpoint of the stock class"
        )
    label = f"{label}: {CONFIG_NAME}"
    for name, value in values.items():
        # every key becomes an attribute, which would hide a method or a table, or meet a property without a setter
        attribute = getattr(kind, name, None)
        is_fixed = isinstance(attribute, property) and attribute.fset is None
        if callable(attribute) or isinstance(attribute, dict) or is_fixed:
            raise ValueError(f"{label} has the key {short_repr(name)}, which belongs to the class itself; remove it")
        if name in _RULES and not _RULES[name][0](value):
            raise ValueError(f"{label} has {name}={short_repr(value)}; expected {_RULES[name][1]}")
    layers = (values.get("per_layer_config") or {}).values()
    for name, value in (item for holder in (values, *layers) for item in holder.items()):
        most = MAX_LAYERS if name.endswith("layers") else _MAX_SIZE
        sizes = [size for size in (value if isinstance(value, list) else [value]) if is_int(size)]
        # 0 may switch something off
        if name.endswith(_SIZES) and not all(0 <= size <= most for size in sizes):
            raise ValueError(f"{label} has {name}={short_repr(value)}; expected a whole number from 1 to {most}")
    try:
        config = kind.from_dict({name: value for name, value in values.items() if name not in OUTPUT_KEYS})
        if kind.model_type in MODEL_TYPES:
            plan = widths_of(config)
            WidthPlan.from_dict(plan.to_dict(), len(plan.layers))  # refuses widths that are no positive integers
            if max_tokens(config) < 1:
                raise ValueError(
                    f"max_position_embeddings={config.max_position_embeddings} leaves no token a position"
                )
            if config.pad_token_id is not None and not 0 <= config.pad_token_id < config.vocab_size:
                raise ValueError(
                    f"pad_token_id={config.pad_token_id} is none of vocab_size={config.vocab_size} tokens"
                )
    except Exception as error:  # transformers raises errors of many kinds for unexpected content
        raise ValueError(
            f"{label} can't be used ({type(error).__name__}: {' '.join(str(error).split())[:_SHOWN_CHARS]}); mend it"
        ) from error
    return config


def load_encoder(
    name_or_path: str,
    *,
    config: PreTrainedConfig | None = None,
    revision: str | None = None,
    token: str | None = None,
    argument: str = "teacher",
    needs_head: bool = True,
) -> PreTrainedModel:
    """Load an encoder in float32, in evaluation mode; arguments as in [`load_encoder_config`].

    `architectures` of `config` (default: read now) names the class. Without a name it is the masked-LM class, as it is
    for pre-training classes, whose next-sentence head is dropped.

    Raises:
        ValueError: see [`load_encoder_config`]; also weights that are unreadable or lack a part of the model.
        HubError: the Hub refused or can't be reached.
    """
    label = f"{argument}={str(name_or_path)[:_SHOWN_CHARS]!r}"
    config = config or load_encoder_config(
        name_or_path, revision=revision, token=token, argument=argument, needs_head=needs_head
    )
    if Path(name_or_path).is_dir():
        # the files must hold at least these, before memory is taken for them
        num_parameters = count_parameters(widths_of(config), config) + config.num_labels * config.hidden_size
        check_weights(name_or_path, num_parameters, label)
    else:
        with hub_errors(f"{label} can't be read", token=token):
            # Fetched first, as from_pretrained would report missing weights if the Hub does not answer.
            try:
                hf_hub_download(name_or_path, SAFE_WEIGHTS_NAME, revision=revision, token=token)
            except EntryNotFoundError as error:  # they may be in other files
                if comes_from_hub(error) and not isinstance(error, RemoteEntryNotFoundError):
                    raise
    class_name = config.architectures[0]
    how: dict[str, Any] = {"label": label, "revision": revision, "token": token}
    if class_name not in HEADS:
        return load_weights(architecture_of(config).encoder.stock, name_or_path, config, optional="pooler.", **how)
    return load_weights(HEADS[class_name].class_called(class_name), name_or_path, config, **how)


def _keep_activation(config: PreTrainedConfig, name_or_path: str, revision: str | None, token: str | None) -> None:
    """Name what sentence-transformers puts behind a reranker's logit where every export has it: in its configuration.

    Newer versions of the library have it in a file beside, which no export copies; without either it is a sigmoid.
    """
    own = getattr(config, "sentence_transformers", None)
    if (found := default_activation(name_or_path, revision=revision, token=token)) is not None:
        config.sentence_transformers = (own if isinstance(own, dict) else {}) | {"activation_fn": found}


def default_activation(model: Any, *, revision: str | None = None, token: str | None = None) -> str | None:
    """The torch class that sentence-transformers puts behind a reranker's logit; None: its own default, a sigmoid.

    `model` is a folder or a Hub name. For a loaded model no Hub is asked: its name may be that of a folder which is no
    more.
    """
    is_loaded = isinstance(model, nn.Module)
    name = str(model.name_or_path if is_loaded else model)

    def values_of(file_name: str) -> Any:
        file = model_file(name, file_name, token=token, is_cached=is_loaded, revision=revision)
        return read_json_object(file, str(file)) if file else {}

    written = values_of(CONFIG_NAME)
    own = stored = written.get("sentence_transformers")
    if is_loaded:
        written = model.config.to_dict()
        own = written.get("sentence_transformers")
    # the first place that names one counts, as in the library, which may leave an older one in the other; what was set
    # since the model was loaded counts before both
    for values in (values_of(SENTENCE_FILE), own) if own == stored else (own, values_of(SENTENCE_FILE)):
        if isinstance(values, dict) and isinstance(found := values.get("activation_fn"), str):
            return found
    former = written.get("sbert_ce_default_activation_function")
    return former if isinstance(former, str) else None


def load_weights(
    model_class: Any,
    name_or_path: str | Path,
    config: PreTrainedConfig,
    *,
    label: str,
    revision: str | None = None,
    token: str | None = None,
    optional: str | tuple[str, ...] = (),
    remedy: str = _MISSING_HEAD,
) -> PreTrainedModel:
    """Load a model of a checked configuration in float32; no remote code runs.

    Args:
        model_class: a class of a model, or an auto class.
        name_or_path: folder or Hub name.
        config: what [`checked_config`] returned.
        label: argument and value, first words of every message.
        revision: branch, tag or commit on the Hub.
        token: Hub token.
        optional: beginnings of names of weights that may be missing.
        remedy: what to do where others are missing.

    Raises:
        ValueError: weights that are unreadable, lack a part of the model, or have other shapes.
        HubError: the Hub refused or can't be reached.
    """
    # without transformers' table of keys, as the keys that matter are named in one message
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        model, info = model_class.from_pretrained(
            name_or_path,
            config=config,
            revision=revision or "main",
            token=token,
            dtype="float32",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            trust_remote_code=False,
        )
    except Exception as error:  # safetensors, pickle and the Hub's client raise errors of many kinds
        if comes_from_hub(error):
            raise explained(f"{label} can't be read", error, token=token) from None
        reason = f"{type(error).__name__}: {error}"[:_SHOWN_CHARS]
        raise ValueError(f"{label}: its weights are unreadable ({reason}); copy or download them again") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    _refuse_misfits(info, model, label, optional, remedy)
    with torch.no_grad():  # what no file has would be drawn anew in each process, and make another model of it
        for name in info["missing_keys"]:
            model.get_parameter(name).zero_()
    refuse_nonfinite(model, label)
    return model


def refuse_nonfinite(model: nn.Module, label: str) -> None:
    """Refuse, by a ValueError that begins with `label`, a parameter with NaN, Inf, or a square beyond float32."""
    for name, parameter in model.named_parameters():
        largest = max(map(abs, map(float, parameter.detach().aminmax()))) if parameter.numel() else 0.0
        if not largest < _LARGEST_WEIGHT:
            counts = {"NaN": int(parameter.isnan().sum()), "Inf": int(parameter.isinf().sum())}
            found = " and ".join(f"{count:,} × {word}" for word, count in counts.items() if count)
            raise ValueError(
                f"{label} has {found or f'{largest:.3g}'} among the {parameter.numel():,} values of {name}, which "
                "makes gradients or logits that are not finite as well; take another copy of it, or export an earlier "
                "checkpoint"
            )


def _refuse_misfits(
    info: Mapping[str, Any], model: PreTrainedModel, label: str, optional: str | tuple[str, ...], remedy: str
) -> None:
    """Refuse files of other weights than the configuration describes, by the likely reason."""
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(optional))
    unexpected = sorted(info["unexpected_keys"])
    shapes = {name: (tuple(found), tuple(wanted)) for name, found, wanted in info["mismatched_keys"]}
    # the most telling reason first: adapters and prefixes leave weights missing as well
    if adapters := [name for name in unexpected if "lora_" in name or ".base_layer." in name]:
        raise ValueError(
            f"{label} holds adapters ({join_some(adapters)}), which its stock class leaves out; load it with peft "
            "and save model.merge_and_unload()"
        )
    if shapes:
        remedy = f"mend {CONFIG_NAME}, or take the one that was saved with these weights"
        # if the head alone differs, and by one number of labels, that is the number it was trained with
        has_head, base = model.base_model is not model, f"{model.base_model_prefix}."
        numbers = {found[0] for found, wanted in shapes.values() if wanted[:1] == (model.config.num_labels,)}
        if has_head and len(numbers) == 1 and not any(name.startswith(base) for name in shapes):
            remedy = f"its head has {min(numbers)} labels: give id2label and label2id as many names as that"
        name, (found, wanted) = min(shapes.items())
        more = f" (and {len(shapes) - 1} more like it)" if len(shapes) > 1 else ""
        raise ValueError(
            f"{label} holds {name} of the shape {found}, its {CONFIG_NAME} describes {wanted}{more}; {remedy}"
        )
    # a wrapper's prefix stands before every name, so one missing name finds it
    prefixes = {name.removesuffix(one) for one in missing[:1] for name in unexpected if name.endswith(f".{one}")}
    if prefixes:
        prefix = min(prefixes)
        raise ValueError(
            f"{label} has weights named {prefix}{missing[0]} where {missing[0]} is expected: they were saved from a "
            f"wrapped model; take the prefix {prefix!r} off their names, or save the model inside with save_pretrained"
        )
    if missing:
        raise ValueError(
            f"{label} has no weights for {join_some(missing)}, which {type(model).__name__} needs; {remedy}"
        )


def refuse_architecture(class_name: str, argument: str = "teacher") -> None:
    """Refuse classes without a student class; the message names those that can be loaded."""
    if class_name in HEADS:
        return
    remedy = "choose a stock encoder with one of these heads"
    if class_name.startswith("BinaryBert"):
        remedy = "it is a model of bits: name the float model that it was made from"
    for architecture in ARCHITECTURES.values():
        stock, first = architecture.stock, architecture.heads[0].stock_name
        if class_name == architecture.encoder.stock_name:
            remedy = (
                f"it has no head to compare logits with: load it as {first} if its checkpoint has that head, or train "
                f"one first (homodistil finetune); an embedding model needs its {MODULES_FILE} beside it"
            )
        elif class_name in (f"{stock}LMHeadModel", f"{stock}ForCausalLM", f"{stock.removesuffix('Text')}ForCausalLM"):
            remedy = f"it is a decoder: load it as {first} if it was trained to see both directions"
            if architecture.masked_lm is None:
                remedy = f"it is a decoder: train it as {first} first, or take an embedding model"
    raise ValueError(
        f"{argument} class {class_name[:_SHOWN_CHARS]} is not supported; expected …For{', …For'.join(_HEAD_NAMES)} of "
        f"{', '.join(ARCHITECTURES)}; {remedy}"
    )


def refuse_config(config: PreTrainedConfig, argument: str = "teacher") -> None:
    """Refuse settings that the student classes don't have: a decoder, other kinds of positions."""
    decodes = {name: getattr(config, name, False) for name in ("is_decoder", "add_cross_attention")}
    if any(decodes.values()):
        raise ValueError(
            f"{argument} config has {', '.join(f'{name}={short_repr(value)}' for name, value in decodes.items())}; "
            f"only encoders are supported: set both to False if the model was trained to see both directions"
        )
    # Position embeddings of other kinds were dropped from transformers' BERT, which would load them as absolute ones.
    positions = getattr(config, "position_embedding_type", "absolute")
    if positions not in (None, "absolute"):
        raise ValueError(
            f"{argument} config has position_embedding_type={short_repr(positions)}; transformers' BERT only has "
            f"'absolute': choose a model trained with it"
        )
