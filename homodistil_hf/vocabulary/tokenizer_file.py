"""The content of a `tokenizer.json` → the content for a tokenizer with fewer tokens; selection.py chooses them.

Text whose tokens all stay becomes the same tokens as before, for every kind of tokenizer. WordPiece takes the longest
piece, which still exists. BPE applies the same merges in the same order, because a token keeps the merges that lead to
it. Unigram still has its best path through a word. Other text becomes more and smaller pieces.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..files.messages import short_repr

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_KINDS = ("WordPiece", "BPE", "Unigram")


def token_ids(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Return token → id of all tokens, added ones included.

    `tokenizer` is the content of a `tokenizer.json`, here and below.

    Raises:
        ValueError: a model that is neither WordPiece nor BPE nor Unigram.
    """
    return _pieces(_model_of(tokenizer)) | {token["content"]: token["id"] for token in tokenizer["added_tokens"] or ()}


def required_ids(tokenizer: Mapping[str, Any]) -> set[int]:
    """Return the ids that always stay: added tokens, those around a text, the unknown one, single characters or bytes.

    Raises:
        ValueError: as [`token_ids`]; or the tokenizer puts unknown ids around a text.
    """
    model, added = _model_of(tokenizer), {token["id"] for token in tokenizer["added_tokens"] or ()}
    pieces = _pieces(model)
    unknown = pieces.get(model.get("unk_token") or "")
    around, padding = _ids_around(tokenizer.get("post_processor")), tokenizer.get("padding")
    around |= {padding["pad_id"]} if padding else set()
    if missing := around - set(token_ids(tokenizer).values()):
        raise ValueError(
            f"tokenizer.json puts {short_repr(sorted(missing))} around a text, which are ids of no token; mend it"
        )
    # the smallest pieces, which words fall to without larger ones, and what the model requires
    affixes = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    smallest = {
        old
        for piece, old in pieces.items()
        if len(piece) == 1 or len(piece.removeprefix(affixes[0]).removesuffix(affixes[1])) == 1
    }
    if model["type"] == "BPE":
        smallest |= {old for piece, old in pieces.items() if _BYTE.match(piece)}
    elif model["type"] == "Unigram":
        smallest |= _unigram_fixed(model)
    return added | around | smallest | ({unknown} if unknown is not None else set())


def needs_of(tokenizer: Mapping[str, Any]) -> Callable[[int], set[int]]:
    """Return id → the ids of a token and of all tokens that it is merged from (BPE).

    Added tokens need no others: they are found in the text as they are.
    """
    added = {token["id"] for token in tokenizer["added_tokens"] or ()}
    model = _model_of(tokenizer)
    needs = _bpe_needs(model) if model["type"] == "BPE" else lambda token: {token}
    return lambda token: {token} if token in added else needs(token)


def spare_characters(tokenizer: Mapping[str, Any], seen: Iterable[int]) -> set[int]:
    """Return the single characters that a text doesn't have, where a character without a piece can still be read.

    `seen` are ids of the text's tokens.

    Returns:
        Ids, of Unigram alone, whose large vocabularies hold thousands of characters of other scripts; none where the
        tokenizer has no fallback, see [`fallback_of`].
    """
    model = tokenizer["model"]
    if model.get("type") != "Unigram" or fallback_of(tokenizer) is None:
        return set()
    pieces = [piece for piece, _ in model["vocab"]]
    # every character of every piece in the text
    used = set().union(*(pieces[old] for old in seen if old < len(pieces)))
    singles = {old for old, piece in enumerate(pieces) if len(piece) == 1 and piece not in used}
    added = {token["id"] for token in tokenizer["added_tokens"] or ()}
    return singles - added - _unigram_fixed(model)


def fallback_of(tokenizer: Mapping[str, Any]) -> str | None:
    """Return what Unigram makes of a character without a piece: `bytes`, its unknown token, or None for an error."""
    model = tokenizer["model"]
    if model.get("byte_fallback") and any(_BYTE.fullmatch(piece) for piece, _ in model["vocab"]):
        return "bytes"
    unknown = model.get("unk_id")
    return None if unknown is None else str(model["vocab"][unknown][0])


def trimmed_tokenizer(tokenizer: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """Leave out tokens, and number the others anew.

    `kept` ids are ascending, with all that they need by [`needs_of`]; the new id of a token is its index there.
    """
    new = {old: number for number, old in enumerate(kept)}
    added = [token | {"id": new[token["id"]]} for token in tokenizer["added_tokens"] or ()]
    model = dict(_model_of(tokenizer))
    if model["type"] == "Unigram":
        model["vocab"] = [model["vocab"][old] for old in kept if old < len(model["vocab"])]
        unknown = model.get("unk_id")
        model["unk_id"] = None if unknown is None else new[unknown]
    else:
        model["vocab"] = {piece: new[old] for piece, old in model["vocab"].items() if old in new}
    if model["type"] == "BPE":
        # a merge stays where its parts and its result do, in the old order
        model["merges"] = [pair for pair in model["merges"] if {*pair, "".join(pair)} <= model["vocab"].keys()]
    trimmed = {**tokenizer, "added_tokens": added, "model": model}
    trimmed["post_processor"] = _renumbered(tokenizer.get("post_processor"), new)
    if padding := tokenizer.get("padding"):
        trimmed["padding"] = padding | {"pad_id": new[padding["pad_id"]]}
    return trimmed


def _ids_around(processor: Any) -> set[int]:
    if not isinstance(processor, dict):
        return set()
    several, tokens = processor.get("processors") or (), processor.get("special_tokens") or {}
    ids = set().union(*map(_ids_around, several), *(token["ids"] for token in tokens.values()))
    return ids | {processor[name][1] for name in ("sep", "cls") if isinstance(processor.get(name), list)}


def _renumbered(processor: Any, new: Mapping[int, int]) -> Any:
    """Return a post-processor with new ids: a template, BERT's, RoBERTa's, or several in sequence."""
    if not isinstance(processor, dict):
        return processor
    changes: dict[str, Any] = {}
    if isinstance(several := processor.get("processors"), list):
        changes["processors"] = [_renumbered(one, new) for one in several]
    if isinstance(tokens := processor.get("special_tokens"), dict):
        changes["special_tokens"] = {
            name: token | {"ids": [new[old] for old in token["ids"]]} for name, token in tokens.items()
        }
    for name in ("sep", "cls"):
        if isinstance(processor.get(name), list):
            token, old = processor[name]
            changes[name] = [token, new[old]]
    return processor | changes


def _model_of(tokenizer: Mapping[str, Any]) -> Mapping[str, Any]:
    model: Mapping[str, Any] = tokenizer["model"]
    if model.get("type") not in _KINDS:
        raise ValueError(
            f"tokenizer.json has a model of type {short_repr(model.get('type'))}; its tokens can be left out where it "
            f"is one of {', '.join(_KINDS)}"
        )
    return model


def _pieces(model: Mapping[str, Any]) -> dict[str, int]:
    if model["type"] == "Unigram":
        return {piece: old for old, (piece, _) in enumerate(model["vocab"])}
    return dict(model["vocab"])


def _bpe_needs(model: Mapping[str, Any]) -> Callable[[int], set[int]]:
    """Return id → a token and all tokens that merges make on the way to it, which its neighbours don't change."""
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ValueError("tokenizer.json has a BPE model with a prefix or suffix of pieces, which can't be trimmed")
    vocabulary = model["vocab"]
    ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
    pieces = {old: piece for piece, old in vocabulary.items()}

    def needs(token: int) -> set[int]:
        # As BPE does: merge the pair of lowest rank, again and again, and note every token that this makes.
        parts, made = list(pieces.get(token, "")), {token}
        while True:
            pairs = enumerate(itertools.pairwise(parts))
            ranked = [(ranks[pair], place) for place, pair in pairs if pair in ranks]
            if not ranked:
                return made
            place = min(ranked)[1]
            parts[place : place + 2] = ["".join(parts[place : place + 2])]
            made.add(vocabulary[parts[place]])

    return needs


def _unigram_fixed(model: Mapping[str, Any]) -> set[int]:
    """Return bytes, the unknown piece, and the piece of lowest score, which fixes the unknown one's."""
    vocabulary = model["vocab"]
    lowest = min(range(len(vocabulary)), key=lambda old: vocabulary[old][1])
    fixed = {old for old, (piece, _) in enumerate(vocabulary) if _BYTE.fullmatch(piece)} | {lowest}
    return fixed | ({model["unk_id"]} if model.get("unk_id") is not None else set())
