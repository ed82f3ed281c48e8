"""Load the tokenizer beside a model; its files may not run code or name files outside its folder."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import CONFIG_NAME, cached_file

from ..files.folders import refuse_missing
from ..files.inside import leads_inside, stays_inside
from ..files.messages import first_line, short_repr
from ..files.settings import ROW_LENGTH
from ..files.strict_json import fits, read_json_object, write_json
from .architectures import architecture_of, has_segments, max_tokens

logger = logging.getLogger(__name__)

TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
_FAST_FILE = "tokenizer.json"
_WITH_NAMES = (TOKENIZER_CONFIG_FILE, "special_tokens_map.json")
"""Files whose values may be names of other files."""
_JSON_FILES = (*_WITH_NAMES, _FAST_FILE, "added_tokens.json")
_VOCABULARY_FILES = (
    *(_FAST_FILE, "vocab.txt", "vocab.json"),
    *("spiece.model", "spm.model", "sentencepiece.bpe.model", "tokenizer.model"),
)
_USUAL_TOKENS = {
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "pad_token": ("[PAD]", "<pad>"),
    "mask_token": ("[MASK]", "<mask>"),
    "unk_token": ("[UNK]", "<unk>"),
    "bos_token": ("<s>",),
    "eos_token": ("</s>",),
}
_UNUSED = "unused"
COPY = "copy it again from the teacher"
"""What to do about the tokenizer in a folder."""
_MULTIPLE = 8
_VOCABULARY_PADDING = 128  # vocabularies are padded up to multiples of at most this
_TABLE_KEYS = ("vocab", "merges")
"""Keys whose text is read as the name of a file in the working folder."""


def stored_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer of an export, a checkpoint or a model's folder, if it holds one; arguments below.

    Raises:
        ValueError: it is damaged, or has special tokens alone.
    """
    if not any((folder / name).is_file() for name in (TOKENIZER_CONFIG_FILE, *_VOCABULARY_FILES)):
        return None
    return load_tokenizer(folder, argument="folder", remedy=COPY)


def load_tokenizer(
    name: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    argument: str = "tokenizer",
    remedy: str = "name one with --tokenizer",
    config: PreTrainedConfig | None = None,
) -> PreTrainedTokenizerBase:
    """Load a tokenizer that has tokens, from a folder or the Hub; a vocabulary alone is enough.

    Args:
        name: folder or Hub name.
        revision: branch, tag or commit on the Hub.
        token: Hub token; default: the logged-in one.
        argument: the user's name for the tokenizer in messages.
        remedy: last words of messages.
        config: of the model beside it, where transformers doesn't know its type and would warn of it.

    Raises:
        ValueError: the tokenizer is missing or unreadable, or has special tokens alone.
    """
    label = f"{argument}={str(name)!r}"
    refuse_missing(str(name), label)
    is_folder = os.path.isdir(name)
    if is_folder:
        check_tokenizer_files(Path(name), label)
    label += "" if argument == "tokenizer" else ": its tokenizer"
    try:
        if is_folder and (Path(name) / _FAST_FILE).is_file() and not (Path(name) / TOKENIZER_CONFIG_FILE).is_file():
            tokenizer = _of_its_file_alone(Path(name))
        else:
            where: dict[str, Any] = {"revision": revision or "main", "token": token}
            if not os.path.exists(name):  # on the Hub
                missing = {"_raise_exceptions_for_missing_entries": False}
                files = [cached_file(str(name), file, **where, **missing) for file in _WITH_NAMES]
                for folder in {Path(file).parent for file in files if file}:
                    check_tokenizer_files(folder, label)
            tokenizer = AutoTokenizer.from_pretrained(name, config=config, **where, trust_remote_code=False)
        with as_it_was(tokenizer):  # fails here where a text would
            tokenizer(["a"], ["b"])
            tokenizer(["a b"], truncation=True, max_length=8)
    except BaseException as error:  # of many kinds; a panic of tokenizers is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise ValueError(f"{label} can't be loaded ({type(error).__name__}: {first_line(error)}); {remedy}") from error
    names = tokenizer.model_input_names
    if not fits(names, [str]) or names[:1] != ["input_ids"]:  # `pad` measures the first of them
        raise ValueError(f"{label} has model_input_names={short_repr(names)}; expected input_ids first; {remedy}")
    check_vocabulary(tokenizer, label, remedy)
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a tokenizer's files under names that transformers 4 reads as well as 5.

    A tokenizer of no model's own class is a `TokenizersBackend` in 5, which 4 calls `PreTrainedTokenizerFast`; special
    tokens without a role are a list `extra_special_tokens` in 5, `additional_special_tokens` in 4. 5 reads both.
    """
    tokenizer.save_pretrained(folder)
    file = folder / TOKENIZER_CONFIG_FILE
    values = read_json_object(file, str(file))
    if values.get("tokenizer_class") == "TokenizersBackend":
        values["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(values.get("extra_special_tokens"), list):
        values["additional_special_tokens"] = values.pop("extra_special_tokens")
    write_json(file, values)


def without_unused_segments(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """Let a model's own tokenizer number the texts of a pair only where the model tells them apart; returns it."""
    if not has_segments(config):
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    return tokenizer


def as_heads_read(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """Prepare a tokenizer for a model with a head: padding stands behind texts, segments as above; returns it.

    Heads read the first token, and most architectures count positions from it: padding there would change results.

    Raises:
        ValueError: a head that reads the last token before padding, which the tokenizer has another id for.
    """
    has_tags = any(name.endswith("ForTokenClassification") for name in config.architectures or ())
    if architecture_of(config).reads_before_padding and not has_tags:
        _check_padding_ids(tokenizer, config, "use the tokenizer that was saved with the model")
    if tokenizer.padding_side == "left":
        logger.warning("tokenizer=%r pads on the left; texts are padded on the right here", tokenizer.name_or_path)
        tokenizer.padding_side = "right"
    return without_unused_segments(tokenizer, config)


def padding_multiple(config: PreTrainedConfig) -> int | None:
    """Return the multiple that padded lengths are rounded up to, None where the last one would exceed the positions.

    Matrix libraries prepare for fewer shapes then.
    """
    return _MULTIPLE if max_tokens(config) % _MULTIPLE == 0 else None


def tokenizer_of_run(
    model: str, named: str | None, *, revision: str | None = None, token: str | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer that a user names for a model, else the model's own, of its `revision`.

    Raises:
        ValueError: see [`load_tokenizer`]; or its ids mean other words than the model's.
    """
    if named is None:
        return load_tokenizer(model, revision=revision, token=token)
    tokenizer = load_tokenizer(named, token=token)
    try:
        own = load_tokenizer(model, revision=revision, token=token)
    except ValueError:  # a model without a tokenizer is why one is named
        return tokenizer
    _check_words(tokenizer, own, model)
    return tokenizer


def check_vocabulary(
    tokenizer: PreTrainedTokenizerBase, label: str = "tokenizer", remedy: str = "use the one saved with the model"
) -> None:
    """Refuse, by a ValueError, a tokenizer of special tokens alone, which reads every word as the unknown one."""
    # transformers makes such a tokenizer of a folder without a vocabulary.
    if not set(tokenizer.get_vocab()) - set(tokenizer.get_added_vocab()) - set(tokenizer.all_special_tokens):
        raise ValueError(f"{label} has no vocabulary beside special tokens; {remedy}")


def check_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse, by a ValueError, a tokenizer without a padding token where texts of several lengths share a batch."""
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"tokenizer={tokenizer.name_or_path!r} has no padding token, which batches of texts need; give it one: "
            'tokenizer.add_special_tokens({"pad_token": "[PAD]"})'
        )


def check_ids(name: str, smallest: int, largest: int, vocab_size: int) -> None:
    """Refuse, by a ValueError, token ids from `smallest` to `largest` that a model has no rows for."""
    wrong = smallest if smallest < 0 else largest
    if wrong < 0 or wrong >= vocab_size:
        raise ValueError(
            f"{name} has the token id {wrong}, but the model's vocab_size={vocab_size}; tokenize the text with the "
            "tokenizer that was saved with the model"
        )


def check_words_of_model(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """Refuse, by a ValueError, a tokenizer whose ids mean other words than those of the one in the model's folder.

    A model that has lost tokens since, or whose folder has no readable tokenizer, is let pass.
    """
    name = config.name_or_path
    if name == tokenizer.name_or_path or not os.path.isdir(name):
        return
    try:
        own = stored_tokenizer(Path(name))
    except ValueError:
        return
    if own is not None and len(own) <= config.vocab_size:
        _check_words(tokenizer, own, name)


def _check_words(tokenizer: PreTrainedTokenizerBase, own: PreTrainedTokenizerBase, model: str) -> None:
    words = {number: word for word, number in own.get_vocab().items()}
    for word, number in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        # Tokens that nothing was learned for may become a user's own.
        if (known := words.get(number, word)) != word and _UNUSED not in known:
            raise ValueError(
                f"tokenizer={tokenizer.name_or_path!r} has {short_repr(word)} as id {number}, which is "
                f"{short_repr(known)} in the tokenizer of {model!r}: the model would read other words; use the "
                "tokenizer that was saved with it, or remove the other one where the model has learned this one"
            )


def _of_its_file_alone(folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer.json by its own rules: the model's usual class would put its rules in their place."""
    backend = Tokenizer.from_file(str(folder / _FAST_FILE))
    vocabulary = backend.get_vocab()
    special = {name: [token for token in tokens if token in vocabulary] for name, tokens in _USUAL_TOKENS.items()}
    inputs = ["input_ids", "attention_mask"]
    config = folder / CONFIG_NAME
    # segments only where the model has rows for them
    if config.is_file() and (read_json_object(config, str(config)).get("type_vocab_size") or 0) > 1:
        inputs.insert(1, "token_type_ids")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        name_or_path=str(folder),
        model_input_names=inputs,
        **{name: tokens[0] for name, tokens in special.items() if tokens},
    )


def fitted_length(
    given: int | None,
    config: PreTrainedConfig,
    *,
    argument: str,
    default: int = ROW_LENGTH,
    owner: str = "model",
    tokenizer: PreTrainedTokenizerBase | None = None,
    allowed: int | None = None,
) -> int:
    """Tokens a row: those that are given, else the default, or all that a model has positions for where it has fewer.

    Args:
        given: the setting's value; None where none was given.
        config: of the model that reads the rows.
        argument: name of the setting.
        default: its default.
        owner: name of the model in messages.
        tokenizer: its `model_max_length` bounds a default as well.
        allowed: tokens that the model's settings of sentence-transformers allow; a warning says where fewer are read.

    Raises:
        ValueError: a given length is over the model's positions.
    """
    most = max_tokens(config)
    if given is not None:
        if given > most:
            raise ValueError(
                f"{argument}={short_repr(given)} is over the {owner}'s positions={most}; nearest valid: {most}, by "
                f"--{argument} {most} or without it"
            )
        if allowed is not None and given > allowed:
            told = (argument, short_repr(given), allowed, owner)
            logger.warning("%s=%s: rows have %d tokens at most, as the %s's settings have a max_seq_length", *told)
        return min(given, allowed or given)
    most = min(most, allowed or most)
    length = min(default, most, default if tokenizer is None else tokenizer.model_max_length)
    if length < default:
        logger.info("%s=%d, as the %s reads no longer rows; the default is %d", argument, length, owner, default)
    return length


def rows_of_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int) -> dict[str, list[list[int]]]:
    """Tokenize texts into rows of at most `max_length` tokens, special ones included; none of their tokens is lost.

    Returns:
        The tokenizer's columns. A longer text has several rows, one behind the other.
    """
    if tokenizer.is_fast:
        with as_it_was(tokenizer):
            rows = tokenizer(texts, truncation=True, max_length=max_length, return_overflowing_tokens=True)
        return {name: values for name, values in rows.items() if name != "overflow_to_sample_mapping"}
    # Those in Python don't return what they cut off.
    content = max(1, max_length - tokenizer.num_special_tokens_to_add())
    pieces = [
        tokenizer.prepare_for_model(ids[start : start + content])
        for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        for start in range(0, len(ids) or 1, content)
    ]
    return {name: [piece[name] for piece in pieces] for name in tokenizer.model_input_names if name in pieces[0]}


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """Check that the teacher has every id of the tokenizer, for the same word.

    Both must have one padding id where positions begin behind it.
    """
    num_tokens = max(len(tokenizer), max(tokenizer.get_vocab().values(), default=-1) + 1)
    remedy = "use the tokenizer that was saved with the teacher"
    if num_tokens > config.vocab_size:
        raise ValueError(
            f"tokenizer has {num_tokens} tokens, but the teacher's vocab_size={config.vocab_size}; {remedy}, "
            f"or enlarge the teacher first: teacher.resize_token_embeddings({num_tokens})"
        )
    # padding is masked, so its id matters where positions begin behind it, or a head reads before it (`as_heads_read`)
    if architecture_of(config).first_position(config):
        _check_padding_ids(tokenizer, config, remedy)
    check_vocabulary(tokenizer)
    check_words_of_model(tokenizer, config)
    if config.vocab_size - num_tokens >= _VOCABULARY_PADDING:
        logger.warning(
            "tokenizer has %d tokens, but the teacher's vocab_size=%d: are they made for each other? If not, %s",
            num_tokens,
            config.vocab_size,
            remedy,
        )


def _check_padding_ids(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, remedy: str) -> None:
    of_tokenizer, of_model = tokenizer.pad_token_id, config.pad_token_id
    if None not in (of_tokenizer, of_model) and of_tokenizer != of_model:
        raise ValueError(
            f"tokenizer has pad_token_id={of_tokenizer}, but the model's pad_token_id={of_model}; {remedy}, "
            "or make them equal in the model's configuration"
        )


def check_tokenizer_files(folder: Path, label: str) -> None:
    """Raise `ValueError` if a tokenizer's files are no JSON or lead out of the folder."""
    contents = {
        name: read_json_object(folder / name, f"{label}: {name}") for name in _JSON_FILES if (folder / name).is_file()
    }
    # many configurations name a file on their maker's machine: harmless, unless there is such a file here
    for name in _WITH_NAMES:
        for key, value in contents.get(name, {}).items():
            if (key in _TABLE_KEYS or key.endswith(("_file", "_files"))) and _leads_out(folder, key, value):
                raise ValueError(
                    f"{label}: {name} has {key}={short_repr(value)}, which is outside the folder; remove it"
                )
    config = contents.get(TOKENIZER_CONFIG_FILE, {})
    # a template's name becomes a file's when the tokenizer is saved
    templates = config.get("chat_template")
    if isinstance(templates, list):
        templates = [entry.get("name") for entry in templates if isinstance(entry, dict)]
    for name in templates if isinstance(templates, dict | list) else ():
        if not isinstance(name, str) or not stays_inside(name) or len(Path(name).parts) != 1 or "\\" in name:
            raise ValueError(
                f"{label}: {TOKENIZER_CONFIG_FILE} has a chat_template called {short_repr(name)}; expected a plain "
                "word"
            )


def _leads_out(folder: Path, key: str, value: Any) -> bool:
    """Whether a tokenizer that has this value opens a file outside its folder, or asks the Hub for one."""
    for name in value if isinstance(value, list) else [value]:
        if not isinstance(name, str) or "\0" in name:
            continue
        own = folder / name
        # a name is of the working folder where the folder itself has no such file
        places = [own] if key not in _TABLE_KEYS and os.path.lexists(own) else [own, Path(name)]
        if key == "gguf_file" or any(os.path.lexists(path) and not leads_inside(folder, path) for path in places):
            return True
    return False


@contextmanager
def as_it_was(tokenizer: Any) -> Iterator[None]:
    """Restore a tokenizer's truncation and padding afterwards: a fast one keeps the last settings in its file."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield
        return
    truncation, padding = backend.truncation, backend.padding
    try:
        yield
    finally:
        backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)
        backend.no_padding() if padding is None else backend.enable_padding(**padding)
