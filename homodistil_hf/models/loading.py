"""Load and validate an encoder from the Hub or a folder: a teacher, a student, an export or a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RemoteEntryNotFoundError
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, cached_file

from ..files.hub_errors import HubError, comes_from_hub, explained, hub_errors
from ..files.messages import join_some, short_repr
from ..files.strict_json import read_json_object
from ..files.tensors import check_weights
from .architectures import ARCHITECTURES, HEADS, MODEL_TYPES, architecture_of, config_class, max_tokens
from .config_checks import check_config_values
from .cost import count_parameters
from .widths import widths_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_SHOWN_CHARS = 1000  # of a name or of somebody else's message
_MISSING_HEAD = "name the class it was trained as in config.json's architectures, or train that head first"
_HEAD_NAMES = [head.kind.auto_class.removeprefix("AutoModelFor") for head in next(iter(ARCHITECTURES.values())).heads]


def load_encoder_config(
    name_or_path: str, *, revision: str | None = None, token: str | None = None, argument: str = "teacher"
) -> PreTrainedConfig:
    """Read and check the configuration of an encoder; no weights are loaded and no remote code runs.

    Args:
        name_or_path: Hub name or folder of a checkpoint of a known architecture, or of a student.
        revision: branch, tag or commit on the Hub.
        token: Hub token; default: the logged-in one.
        argument: the user's name for it, first word of every message.

    Returns:
        The configuration of a stock model or a student; its `architectures` name a class that can be loaded.

    Raises:
        ValueError: an unknown architecture, a decoder, an unsupported head or unsupported position embeddings.
        OSError: no such checkpoint.
    """
    label = f"{argument}={str(name_or_path)[:_SHOWN_CHARS]!r}"
    values = config_values(str(name_or_path), label, revision=revision, token=token)
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise ValueError(
            f"{label} has model_type={short_repr(model_type)}; supported: {', '.join(ARCHITECTURES)}, and their "
            "students. Choose an encoder of one of these types, such as google-bert/bert-base-uncased"
        )
    config = checked_config(values, config_class(model_type), label)
    config.name_or_path = str(name_or_path)
    config.architectures = config.architectures or [architecture_of(config).heads[0].stock_name]
    refuse_architecture(config.architectures[0])
    refuse_config(config)
    return config


def config_values(
    name: str | Path, label: str, *, revision: str | None = None, token: str | None = None
) -> dict[str, Any]:
    """Read the `config.json` of a folder or a Hub name; `label` begins every message.

    Raises:
        ValueError: it holds no JSON object.
        OSError: there is no such folder or repository, or no `config.json` in it.
    """
    path = Path(name)
    try:
        if path.is_dir():
            path = path / CONFIG_NAME
        elif not path.is_file():
            with hub_errors(f"{label} can't be read", token=token):
                found = cached_file(str(name), CONFIG_NAME, revision=revision, token=token)
            if found is None:
                raise FileNotFoundError(f"there is no {CONFIG_NAME}; name the repository of a model")
            path = Path(found)
    except HubError:
        raise
    except (OSError, ValueError) as error:
        raise OSError(f"{label} can't be read: {str(error)[:_SHOWN_CHARS]}") from error
    return read_json_object(path, f"{label}: {CONFIG_NAME}")


def checked_config(values: dict[str, Any], kind: type[PreTrainedConfig], label: str) -> PreTrainedConfig:
    """Make a configuration of the content of a `config.json`, within bounds; every model is loaded with such a one.

    Args:
        values: what [`config_values`] returned.
        kind: its class, of transformers or of this package.
        label: argument and value, first words of every message.

    Raises:
        ValueError: modelling code of its own beside a stock class, or a setting that can't be used.
    """
    if "auto_map" in values and kind.__module__.startswith("transformers."):
        raise ValueError(
            f"{label} brings its own modelling code (auto_map={short_repr(values['auto_map'])}), which "
            f"transformers' own class would ignore; choose a checkpoint of the stock class"
        )
    label = f"{label}: {CONFIG_NAME}"
    check_config_values(values, kind, label)
    try:
        config = kind.from_dict(values)
        if kind.model_type in MODEL_TYPES:
            _check_text_config(config)
    except Exception as error:  # transformers raises errors of many kinds for unexpected content
        raise ValueError(
            f"{label} can't be used ({type(error).__name__}: {' '.join(str(error).split())[:_SHOWN_CHARS]}); mend it"
        ) from error
    return config


def _check_text_config(config: PreTrainedConfig) -> None:
    widths_of(config)
    if max_tokens(config) < 1:
        raise ValueError(f"max_position_embeddings={config.max_position_embeddings} leaves no token a position")
    if config.pad_token_id is not None and not 0 <= config.pad_token_id < config.vocab_size:
        raise ValueError(f"pad_token_id={config.pad_token_id} is none of vocab_size={config.vocab_size} tokens")


def load_encoder(
    name_or_path: str,
    *,
    config: PreTrainedConfig | None = None,
    revision: str | None = None,
    token: str | None = None,
    argument: str = "teacher",
) -> PreTrainedModel:
    """Load an encoder in float32, in evaluation mode; arguments as in [`load_encoder_config`].

    `architectures` of `config` (default: read now) names the class. Without a name it is the masked-LM class, as it is
    for pre-training classes, whose next-sentence head is dropped.

    Raises:
        ValueError: see [`load_encoder_config`]; also weights that are unreadable or lack a part of the model.
        HubError: the Hub refused or can't be reached.
    """
    label = f"{argument}={str(name_or_path)[:_SHOWN_CHARS]!r}"
    config = config or load_encoder_config(name_or_path, revision=revision, token=token, argument=argument)
    if Path(name_or_path).is_dir():
        num_parameters = count_parameters(widths_of(config), config) + config.num_labels * config.hidden_size
        check_weights(name_or_path, num_parameters, label)
    else:
        with hub_errors(f"{label} can't be read", token=token):
            _fetch_weights(name_or_path, revision=revision, token=token)
    class_name = config.architectures[0]
    model_class = HEADS[class_name].class_called(class_name)
    return load_weights(model_class, name_or_path, config, label=label, revision=revision, token=token)


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
        ValueError: weights that are unreadable or lack a part of the model.
        HubError: the Hub refused or can't be reached.
    """
    try:
        model, info = model_class.from_pretrained(
            name_or_path,
            config=config,
            revision=revision or "main",
            token=token,
            dtype="float32",
            output_loading_info=True,
            trust_remote_code=False,
        )
    except Exception as error:  # safetensors, pickle and the Hub's client raise errors of many kinds
        if comes_from_hub(error):
            raise explained(f"{label} can't be read", error, token=token) from None
        reason = f"{type(error).__name__}: {error}"[:_SHOWN_CHARS]
        raise ValueError(f"{label}: its weights are unreadable ({reason}); copy or download them again") from error
    if missing := [name for name in info["missing_keys"] if not name.startswith(optional)]:
        raise ValueError(
            f"{label} has no weights for {join_some(missing)}, which {type(model).__name__} needs; {remedy}"
        )
    return model


def _fetch_weights(name: str, *, revision: str | None, token: str | None) -> None:
    # Fetched first, as from_pretrained would report missing weights if the Hub does not answer.
    try:
        hf_hub_download(name, SAFE_WEIGHTS_NAME, revision=revision, token=token)
    except RemoteEntryNotFoundError:
        return  # they may be in other files
    except EntryNotFoundError as error:
        if comes_from_hub(error):
            raise


def refuse_architecture(class_name: str) -> None:
    """Refuse classes without a student class; the message names those that can be loaded."""
    if class_name in HEADS:
        return
    remedies = {
        architecture.encoder_name: "it has no head to compare logits with: load it as "
        f"{architecture.heads[0].stock_name} if its checkpoint has that head, or train one first; an embedding model "
        "needs its modules.json"
        for architecture in ARCHITECTURES.values()
    }
    for architecture in ARCHITECTURES.values():
        remedies |= architecture.refused
    raise ValueError(
        f"teacher class {class_name[:_SHOWN_CHARS]} is not supported; expected …For{', …For'.join(_HEAD_NAMES)} of "
        f"{', '.join(ARCHITECTURES)}; " + remedies.get(class_name, "choose a stock encoder with one of these heads")
    )


def refuse_config(config: PreTrainedConfig) -> None:
    """Refuse settings that the student classes don't have: a decoder, other kinds of positions."""
    decodes = {name: getattr(config, name, False) for name in ("is_decoder", "add_cross_attention")}
    if any(decodes.values()):
        raise ValueError(
            f"teacher config has {', '.join(f'{name}={value}' for name, value in decodes.items())}; "
            f"only encoders are supported: set both to False if the model was trained to see both directions"
        )
    # Position embeddings of other kinds were dropped from transformers' BERT, which would load them as absolute ones.
    positions = getattr(config, "position_embedding_type", "absolute")
    if positions not in (None, "absolute"):
        raise ValueError(
            f"teacher config has position_embedding_type={positions!r}; transformers' BERT only has 'absolute': "
            f"choose a teacher trained with it"
        )
