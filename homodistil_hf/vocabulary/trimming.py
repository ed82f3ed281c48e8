"""A model and its tokenizer with fewer tokens: text whose tokens all stay has the same tokens and outputs."""

import copy
import itertools
import json
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..files.messages import first_line, first_of, short_repr
from ..models.architectures import architecture_of
from ..models.conversion import has_own_decoder
from .tokenizer_file import needs_of, required_ids, token_ids, trimmed_tokenizer

Model = TypeVar("Model", bound=PreTrainedModel)
_ROWS = "vocab_size"


def tokenizer_content(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the content of a tokenizer's `tokenizer.json`.

    Raises:
        ValueError: it has none, being written in Python.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"tokenizer={type(tokenizer).__name__} has no tokenizer.json, whose tokens could be left out; convert it "
            "to a fast one first"
        )
    content: dict[str, Any] = json.loads(backend.to_str())
    return content


def candidates(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
) -> tuple[dict[str, int], set[int], Callable[[int], set[int]]]:
    """Return token → id, the ids that always stay, and id → the ids that a token is merged from.

    The ids that the configuration names always stay. If a text's first position follows from the padding's id, so do
    the tokens up to that one: another id would move all positions.
    """
    content = tokenizer_content(tokenizer)
    ids = token_ids(content)
    known = set(ids.values())
    of_config = [value if isinstance(value, list) else [value] for value in _special_ids(config).values()]
    required = required_ids(content) | ({*itertools.chain(*of_config)} & known)
    if architecture_of(config).first_position(config):
        required |= set(range((config.pad_token_id or 0) + 1)) & known
    return ids, required, needs_of(content)


def trim_vocabulary(
    model: Model, tokenizer: PreTrainedTokenizerBase, kept: Sequence[int], *, spare: Collection[int] = ()
) -> tuple[Model, PreTrainedTokenizerBase]:
    """Leave out tokens of a model and its tokenizer.

    Args:
        model: a stock model of a known architecture, or a student; left as it is.
        tokenizer: the model's own.
        kept: ids that stay, besides the ids that always stay and the pieces that `kept` are merged from.
        spare: single characters, which else always stay, that go unless they are in `kept`; see
            [`spare_characters`].

    Returns:
        A model of the same class, device and mode with a row for each kept token, and the tokenizer for it. Text whose
        tokens all stay has the same tokens and outputs as before. A masked-LM head has the logits of the kept tokens.

    Raises:
        ValueError: a tokenizer that can't be trimmed, or an unknown id.
    """
    trimmed_words, chosen = trim_tokenizer(tokenizer, model.config, kept, spare=spare)
    config, architecture = trimmed_config(model.config, chosen), architecture_of(model.config)
    if has_own_decoder(model):
        config.tie_word_embeddings = False
    shapes = architecture.shapes(model)
    rows = torch.tensor(chosen, device=model.device)
    # cut each parameter along the dimension that counts tokens, if it has one
    state = {
        name: tensor.index_select(shapes[name][0].index(_ROWS), rows)
        if _ROWS in shapes.get(name, ((), None))[0]
        else tensor
        for name, tensor in model.state_dict().items()
    }
    trimmed = type(model)(config).to(device=model.device, dtype=model.dtype)
    trimmed.load_state_dict(state)
    trimmed.name_or_path = model.name_or_path
    return trimmed.train(model.training), trimmed_words


def trim_tokenizer(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, kept: Sequence[int], *, spare: Collection[int] = ()
) -> tuple[PreTrainedTokenizerBase, list[int]]:
    """Do the tokenizer's part of [`trim_vocabulary`] for a configuration; also return the ids that stay."""
    content = tokenizer_content(tokenizer)
    ids, required, needs = candidates(tokenizer, config)
    if unknown := set(kept) - set(ids.values()):
        raise ValueError(f"kept={short_repr(sorted(unknown))} are ids that the tokenizer doesn't have; leave them out")
    chosen = sorted(set().union(*map(needs, {*kept, *required.difference(spare)})))
    try:
        backend = Tokenizer.from_str(json.dumps(trimmed_tokenizer(content, chosen)))
    except Exception as error:  # tokenizers raise nothing more special
        raise ValueError(f"tokenizer can't be trimmed ({first_line(error)}); mend its tokenizer.json") from error
    new = {old: number for number, old in enumerate(chosen)}
    moved = backend.get_vocab(with_added_tokens=True)
    if wrong := [word for word, old in ids.items() if old in new and moved.get(word) != new[old]]:
        raise ValueError(
            f"tokenizer can't be trimmed: {first_of(map(repr, wrong))} would have other ids; ids with gaps between "
            "them are numbered anew when they are read: mend its tokenizer.json"
        )
    # The plain class: others write their tokenizer.json anew, with special tokens in their usual places.
    trimmed = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **tokenizer.special_tokens_map,
        extra_special_tokens=tokenizer.extra_special_tokens,  # which the map doesn't hold
        model_input_names=tokenizer.model_input_names,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        clean_up_tokenization_spaces=tokenizer.clean_up_tokenization_spaces,
        split_special_tokens=tokenizer.split_special_tokens,
        chat_template=tokenizer.chat_template,
    )
    return trimmed, chosen


def trimmed_config(config: PreTrainedConfig, kept: Sequence[int]) -> PreTrainedConfig:
    """Return a copy of a configuration for the tokens that stay, ascending."""
    new = {old: number for number, old in enumerate(kept)}
    changed = copy.deepcopy(config)
    changed.vocab_size = len(kept)
    for name, value in _special_ids(config).items():
        numbers = [new[old] for old in value if old in new] if isinstance(value, list) else new.get(value)
        setattr(changed, name, numbers)
    return changed


def _special_ids(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the settings of a configuration that are ids of tokens, or lists of such."""
    values = {name: value for name, value in config.to_dict().items() if name.endswith("_token_id")}
    return {name: value for name, value in values.items() if isinstance(value, int | list)}
