"""Reads a folder of sentence-transformers, or a repository of the Hub, without importing sentence-transformers.

Folders of both forms are read, before version 5.4 and since. `model.py` has what they hold.
"""

import json
import logging
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import CHAT_TEMPLATE_FILE

from ..files.folders import refuse_missing
from ..files.hub_errors import hub_errors
from ..files.messages import first_line, first_of, short_repr
from ..files.model_files import model_file
from ..files.strict_json import fits, is_int, read_json, read_json_object
from ..files.tensors import WEIGHTS_FILE, check_weights, load_tensors
from ..models.architectures import ARCHITECTURES, architecture_of, config_class, max_tokens
from ..models.cost import count_parameters
from ..models.loading import (
    MODULES_FILE,
    checked_config,
    config_values,
    load_weights,
    refuse_config,
    refuse_nonfinite,
)
from ..models.tokenizers import COPY, TOKENIZER_CONFIG_FILE, load_tokenizer
from ..models.widths import widths_of
from .metrics import SIMILARITIES
from .model import ACTIVATIONS, POOLINGS, Dense, EmbeddingModel, PoolingSettings

TRANSFORMER_FILE, SETTINGS_FILE = "sentence_bert_config.json", "config_sentence_transformers.json"
_TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""The library reads the first of these that it finds."""
_PICKLED_FILE = "pytorch_model.bin"
_READ = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", f"*/{_PICKLED_FILE}")
_LIBRARY = "sentence_transformers."

logger = logging.getLogger(__name__)

_SETTINGS: dict[str, tuple[Any, str]] = {
    "prompts": ({...: str | None}, "an object: name → text or null"),
    "default_prompt_name": (str, "a name"),
    "similarity_fn_name": (str, "a name"),
    "max_seq_length": (int, "a whole number"),
    "truncate_dim": (int, "a whole number"),
    "do_lower_case": (bool, "true or false"),
}
"""Setting → its form in JSON, and the words for it."""
_TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}
# weights, order of modules and versions say as much
_SILENT_KEYS = {"__version__", "model_type", "type", "path", "idx", "name", "unpad_inputs"}
_VECTOR_KEYS = {
    *(*_SILENT_KEYS, *_SETTINGS, *POOLINGS.values(), "pooling_mode", "activation_function"),
    *("word_embedding_dimension", "embedding_dimension", "in_features", "out_features", "bias"),
}
SCORE_KEYS = {*_SILENT_KEYS, "activation_fn"}
"""Keys of a folder's JSON files that are read for vectors, and for scores, or that change neither."""
_USUAL: dict[str, tuple[Any, ...]] = {
    "transformer_task": ("feature-extraction", "sequence-classification"),
    "modality_config": ({"text": _TEXT}, {"text": _TEXT | {"method_output_name": "logits"}}),
    "module_input_name": ("sentence_embedding",),
    "module_output_name": (None, "sentence_embedding", "token_embeddings", "scores"),
    "include_prompt": (True,),
}
"""Others → the values that change no vector or score; of all that are not here: null, false, 0 and nothing."""
_REFUSED = ("module_input_name", "module_output_name", "include_prompt", "use_residual")
"""Keys whose other values make other vectors; all other keys are named as not used."""


def default_activation(model: Any, *, token: str | None = None) -> str | None:
    """The torch class that sentence-transformers puts behind a reranker's logit; None: its own default, a sigmoid.

    `model` is a folder or a Hub name. For a loaded model no Hub is asked: its name may be that of a folder which is no
    more.
    """
    is_loaded = isinstance(model, PreTrainedModel)
    source = str(model.name_or_path if is_loaded else model)

    def values_of(name: str) -> dict[str, Any]:
        file = model_file(source, name, token=token, is_cached=is_loaded)
        return read_json_object(file, str(file)) if file else {}

    own = (model.config.to_dict() if is_loaded else values_of("config.json")).get("sentence_transformers")
    # the first place that names one counts
    for values in (own, values_of(SETTINGS_FILE)):
        if isinstance(values, dict) and isinstance(found := values.get("activation_fn"), str):
            return found
    return None


def load_embedding_model(
    name_or_path: str | Path, *, argument: str = "teacher", token: str | None = None
) -> EmbeddingModel:
    """Load a folder of sentence-transformers, or a repository of the Hub, in float32.

    Args:
        name_or_path: of the folder or repository.
        argument: name of the model in messages.
        token: of the Hub.

    Raises:
        ValueError: no such folder, a module or a setting that a student can't repeat, or an unknown encoder.
        HubError: the Hub refused or can't be reached.
    """
    label = f"{argument}={str(name_or_path)!r}"
    folder = Path(name_or_path)
    refuse_missing(str(name_or_path), label)
    if not folder.is_dir():
        with hub_errors(f"{label} is no folder, and can't be read from the Hub", token=token):
            folder = Path(snapshot_download(str(name_or_path), allow_patterns=list(_READ), token=token))
    if not (folder / MODULES_FILE).is_file():
        raise ValueError(f"{label} has no {MODULES_FILE}; name a folder that sentence-transformers has written")
    # the order is known: Transformer, Pooling, any number of Dense, Normalize or not
    named = read_modules(folder / MODULES_FILE)
    paths = [folder / path for _, path in named]
    (_, first), (_, second), *others = modules = list(zip(checked_kinds(named, label), paths, strict=True))
    config = encoder_config(first, label, argument=argument)
    check_weights(first, count_parameters(widths_of(config), config), label)
    tokenizer = load_tokenizer(first, argument=argument, remedy=COPY)
    tokenizer.chat_template = None
    # Some published configurations name another token of padding, whose row learns nothing: the tokenizer's counts.
    # Where positions begin behind it, both must be the same.
    if tokenizer.pad_token_id not in (None, config.pad_token_id):
        if architecture_of(config).first_position(config):
            raise ValueError(
                f"{label} has pad_token_id={config.pad_token_id} in its config.json, but its tokenizer pads with "
                f"{tokenizer.pad_token_id}, and positions begin behind it; mend the one that is wrong"
            )
        config.pad_token_id = tokenizer.pad_token_id
    remedy = "copy or download it again"
    encoder = load_weights(AutoModel, first, config, label=label, optional="pooler.", remedy=remedy).eval()
    values = read_json_object(second / "config.json", str(second / "config.json"))
    mode = values.get("pooling_mode")
    poolings = [mode] if isinstance(mode, str) else [name for name, switch in POOLINGS.items() if values.get(switch)]
    if len(poolings) != 1 or poolings[0] not in POOLINGS:
        raise ValueError(f"{label} pools by {short_repr(mode or poolings)}; expected one of {', '.join(POOLINGS)}")
    name_unused(str(folder), [path for _, path in named], label)
    normalizes = modules[-1][0] == "Normalize"
    settings = PoolingSettings(poolings[0], normalizes, **_settings(folder, first, encoder, tokenizer))
    dense = tuple(_dense(path, label) for kind, path in others if kind == "Dense")
    for layer in dense:
        refuse_nonfinite(layer.linear, label)
    return EmbeddingModel(encoder, tokenizer, settings, dense, name=str(name_or_path))


def name_unused(
    source: str,
    paths: Sequence[str],
    label: str,
    *,
    read: Collection[str] = _VECTOR_KEYS,
    token: str | None = None,
) -> None:
    """Name in a warning what a folder holds and isn't read; a ValueError for what makes other vectors.

    Args:
        source: folder or Hub name.
        paths: of its modules, inside it.
        label: first words of messages.
        read: keys that are used, or that change nothing.
        token: of the Hub.
    """
    found = partial(model_file, source, token=token)

    def values_of(name: str) -> dict[str, Any]:
        return read_json_object(file, str(file)) if (file := found(name)) else {}

    def of_first(name: str) -> str:
        return PurePosixPath(paths[0], name).as_posix()

    own = [name for name in map(of_first, _TRANSFORMER_FILES) if found(name)][:1]
    names = [SETTINGS_FILE, *own, *(f"{path}/config.json" for path in paths[1:])]
    tables = [(name, values_of(name)) for name in names]
    modules = found(MODULES_FILE)
    tables += [(MODULES_FILE, module) for module in (read_json(modules, MODULES_FILE) if modules else [])]
    unused = []
    for file, values in tables:
        for name, value in values.items():
            if name in read or value in _USUAL.get(name, (None, False, "", [], {})):
                continue
            if name in _REFUSED:
                raise ValueError(
                    f"{label} has {name}={json.dumps(value)} in {file}, which a student couldn't repeat; name another "
                    "teacher"
                )
            unused.append(f"{name}={short_repr(value)} of {file}")
    # a head is no JSON, so the Hub isn't asked for it
    setfit = {"config_setfit.json": found("config_setfit.json"), "model_head.pkl": Path(source, "model_head.pkl")}
    unused += [f"SetFit's {name}" for name, file in setfit.items() if file and file.is_file()]
    chats = values_of(of_first(TOKENIZER_CONFIG_FILE)).get("chat_template") or found(of_first(CHAT_TEMPLATE_FILE))
    unused += ["the tokenizer's chat_template"] * bool(chats)
    if unused:
        logger.warning("%s: not used, and left out of the student: %s", label, "; ".join(unused))


def checked_kinds(modules: Sequence[tuple[str, str]], label: str) -> list[str]:
    """The kinds of the modules that [`read_modules`] returned; a ValueError for those that a student can't have."""
    if foreign := [kind for kind, _ in modules if not kind.startswith(_LIBRARY)]:
        raise ValueError(
            f"{label} has the module {short_repr(foreign[0])}, which is code of its own; a student can repeat modules "
            "of sentence-transformers alone: name another teacher"
        )
    kinds = [kind.rpartition(".")[2] for kind, _ in modules]
    # as many Dense as there are, Normalize only if it is last: what is compared is the order
    dense, last = ["Dense"] * kinds.count("Dense"), ["Normalize"] * (kinds[-1:] == ["Normalize"])
    if kinds != ["Transformer", "Pooling", *dense, *last]:
        raise ValueError(
            f"{label} has the modules {first_of(kinds)}; expected Transformer, Pooling, any number of Dense, and "
            "Normalize or not: name another teacher"
        )
    return kinds


def read_modules(file: Path) -> list[tuple[str, str]]:
    """Read `modules.json`: the type of each module, and its folder below that of the model."""
    modules = read_json(file, str(file))
    if not isinstance(modules, list) or not all(
        isinstance(module, dict) and isinstance(module.get("type"), str) and isinstance(module.get("path"), str)
        for module in modules
    ):
        raise ValueError(f"{file} is {short_repr(modules)}; expected a list of modules, each with type and path")
    for module in modules:
        if Path(module["path"]).is_absolute() or ".." in Path(module["path"]).parts:
            raise ValueError(f"{file} has path={short_repr(module['path'])}; expected a folder beside it")
    return [(module["type"], module["path"]) for module in modules]


def encoder_config(folder: Path, label: str, *, argument: str = "teacher") -> PreTrainedConfig:
    """Read and check the configuration of an encoder without a head, by a ValueError that begins with `label`."""
    values = config_values(folder, label)
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise ValueError(
            f"{label} has model_type={short_repr(model_type)}; expected one of {', '.join(ARCHITECTURES)}"
        )
    config = checked_config(values, config_class(model_type), label)
    refuse_config(config, argument)
    return config


def _settings(folder: Path, encoder_folder: Path, encoder: Any, tokenizer: Any) -> dict[str, Any]:
    def read(file: Path) -> dict[str, Any]:
        values = read_json_object(file, str(file)) if file.is_file() else {}
        for name, (form, words) in _SETTINGS.items():
            if values.get(name) is not None and not fits(values[name], form):
                raise ValueError(f"{file} has {name}={short_repr(values[name])}; expected {words}")
        return values

    files = [encoder_folder / name for name in _TRANSFORMER_FILES]
    file = next((file for file in files if file.is_file()), files[0])
    own, shared = read(file), read(folder / SETTINGS_FILE)
    if (similarity := shared.get("similarity_fn_name")) not in (None, *SIMILARITIES):
        raise ValueError(
            f"{folder / SETTINGS_FILE} has similarity_fn_name={short_repr(similarity)}; expected one of "
            f"{', '.join(SIMILARITIES)}"
        )
    # a tokenizer without a limit names a huge number: then the encoder's positions are the limit
    most = max_tokens(encoder.config)
    longest = own.get("max_seq_length") or tokenizer.model_max_length
    if longest < 1:
        raise ValueError(f"{file} has max_seq_length={longest}; expected at least 1")
    if (cut := shared.get("truncate_dim")) is not None and cut < 1:
        raise ValueError(f"{folder / SETTINGS_FILE} has truncate_dim={cut}; expected at least 1")
    return {
        "max_seq_length": min(longest, most) if is_int(longest) else most,
        "lowers": bool(own.get("do_lower_case")),
        "prompts": {str(name): text or "" for name, text in (shared.get("prompts") or {}).items()},
        "default_prompt_name": shared.get("default_prompt_name"),
        "similarity": similarity,
        "truncate_dim": cut,
    }


def _dense(folder: Path, label: str) -> Dense:
    values = read_json_object(folder / "config.json", str(folder / "config.json"))
    activation = str(values.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"{label} has activation_function={short_repr(values['activation_function'])} in {folder.name}; expected "
            f"one of {', '.join(ACTIVATIONS)}"
        )
    pickled = folder / _PICKLED_FILE
    if (folder / WEIGHTS_FILE).is_file() or not pickled.is_file():
        tensors = load_tensors(folder / WEIGHTS_FILE)
    else:
        try:
            tensors = torch.load(pickled, map_location="cpu", weights_only=True)  # runs no code of the pickle
        except Exception as error:  # pickle raises errors of many kinds
            raise ValueError(
                f"file={str(pickled)!r} is cut off or no pickle of tensors alone ({first_line(error)}); copy it again"
            ) from error
        if not fits(tensors, {...: torch.Tensor}):
            raise ValueError(f"file={str(pickled)!r} holds {short_repr(type(tensors))}; expected name → tensor")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    sizes = shapes.get("linear.weight", ())
    # a matrix, and maybe a bias as long as its outputs; nothing else may be there
    if len(sizes) != 2 or not shapes.items() <= {"linear.weight": sizes, "linear.bias": sizes[:1]}.items():
        raise ValueError(
            f"{label} has tensors of the shapes {short_repr(shapes)} in {folder.name}; expected linear.weight "
            "(outputs, inputs), and linear.bias (outputs) or not: copy it again"
        )
    weight = tensors["linear.weight"].float()
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias="linear.bias" in tensors)
    linear.load_state_dict({name.removeprefix("linear."): tensor.float() for name, tensor in tensors.items()})
    return Dense(linear.requires_grad_(False), activation)
