"""Tokens of a trimmed tokenizer beside those of the whole one, for all three kinds and any text."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import each
from tiny_tokenizers import paragraphs, trained_tokenizer
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from homodistil_hf.vocabulary.tokenizer_file import (
    fallback_of,
    needs_of,
    required_ids,
    spare_characters,
    token_ids,
    trimmed_tokenizer,
)
from homodistil_hf.vocabulary.trimming import tokenizer_content

KINDS = ("WordPiece", "BPE", "Unigram")
of_every_kind = each("kind", KINDS)
WORDS = sorted({word for text in paragraphs() for word in text.split()})
texts = st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=6)), max_size=12).map(" ".join)


def content_of(kind):
    return tokenizer_content(trained_tokenizer(kind))


def closed(content, wanted, spare=()):
    """The wanted ids and those that always stay, with all that they are merged from."""
    return sorted(set().union(*map(needs_of(content), {*wanted, *required_ids(content).difference(spare)})))


def trimmed(kind, wanted):
    """The trimmed tokenizer and the ids that stay."""
    content = content_of(kind)
    kept = closed(content, wanted)
    return Tokenizer.from_str(json.dumps(trimmed_tokenizer(content, kept))), kept


def ids_of(kind, text):
    return trained_tokenizer(kind).backend_tokenizer.encode(text).ids


@pytest.mark.slow
@of_every_kind
@settings(max_examples=150, deadline=None)
@given(text=texts, more=st.sets(st.integers(0, 890), max_size=40))
def test_text_whose_tokens_all_stay_has_the_tokens_that_it_had(kind, text, more):
    before = ids_of(kind, text)
    small, kept = trimmed(kind, {*before, *(more & set(token_ids(content_of(kind)).values()))})
    assert [kept[new] for new in small.encode(text).ids] == before
    assert small.get_vocab_size() == len(kept)


@of_every_kind
def test_other_text_becomes_smaller_pieces_and_nothing_unknown(kind):
    small, kept = trimmed(kind, set())
    unknown = trained_tokenizer(kind).unk_token_id
    for text in paragraphs()[:40]:
        before, after = ids_of(kind, text), [kept[new] for new in small.encode(text).ids]
        assert len(after) >= len(before)
        assert after.count(unknown) == before.count(unknown)


@of_every_kind
def test_the_order_of_ids_stays(kind):
    small, kept = trimmed(kind, range(100, 700, 7))
    whole = token_ids(content_of(kind))
    assert {token: kept[new] for token, new in small.get_vocab().items()}.items() <= whole.items()
    assert kept == sorted(kept)


def test_merges_that_lead_to_a_token_of_bpe_stay_with_it():
    content = content_of("BPE")
    ids = token_ids(content)
    longest = max(ids, key=lambda token: (len(token), token))
    needed = needs_of(content)(ids[longest])
    assert len(needed) > 2
    small, kept = trimmed("BPE", {ids[longest]})
    assert needed <= set(kept)
    assert small.get_vocab()[longest] == kept.index(ids[longest])
    model = trimmed_tokenizer(content, kept)["model"]
    assert {part for merge in model["merges"] for part in (*merge, "".join(merge))} <= model["vocab"].keys()
    assert 0 < len(model["merges"]) < len(content["model"]["merges"])


def test_the_bytes_of_bpe_stay():
    small, kept = trimmed("BPE", set())
    assert len(kept) == 256 + 5
    assert small.decode(small.encode("naïve 猫 🦆").ids) == "naïve 猫 🦆"


def test_the_unknown_piece_of_unigram_has_its_new_number_and_keeps_its_penalty():
    content = content_of("Unigram")
    kept = closed(content, set())
    model = trimmed_tokenizer(content, kept)["model"]
    assert model["vocab"][model["unk_id"]][0] == "<unk>"
    lowest = min(content["model"]["vocab"], key=lambda entry: entry[1])
    assert lowest in model["vocab"]


def test_ids_in_post_processors_padding_and_added_tokens_follow():
    content = content_of("WordPiece")
    template, roberta = content["post_processor"], content_of("BPE")["post_processor"]
    content |= {
        "padding": {"pad_id": 0, "pad_token": "[PAD]"},
        "post_processor": {"type": "Sequence", "processors": [template, {"type": "ByteLevel"}, roberta, None]},
    }
    kept = sorted({0, 1, 2, 3, 4} | required_ids(content))
    moved = [None, *kept]  # every id moves by one
    renumbered = trimmed_tokenizer(content | {"post_processor": content["post_processor"]}, moved)
    processors = renumbered["post_processor"]["processors"]
    assert processors[0]["special_tokens"]["[CLS]"]["ids"] == [template["special_tokens"]["[CLS]"]["ids"][0] + 1]
    assert processors[2]["sep"] == [roberta["sep"][0], roberta["sep"][1] + 1]
    assert processors[1], processors[3] == ({"type": "ByteLevel"}, None)
    assert renumbered["padding"]["pad_id"] == 1
    assert [token["id"] for token in renumbered["added_tokens"]] == [1, 2, 3, 4, 5]


def test_other_kinds_are_refused():
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="a")))
    with pytest.raises(ValueError, match="model of type 'WordLevel'; .* WordPiece, BPE, Unigram"):
        token_ids(tokenizer_content(words))
    with_suffix = content_of("BPE")
    with_suffix["model"]["end_of_word_suffix"] = "</w>"
    with pytest.raises(ValueError, match="BPE model with a prefix or suffix"):
        needs_of(with_suffix)


def test_characters_that_a_text_lacks_may_go_from_unigram():
    content = content_of("Unigram")
    ids, text = token_ids(content), "the teacher of a layer"
    seen = ids_of("Unigram", text)
    spare = spare_characters(content, seen)
    names = {old: piece for piece, old in ids.items()}
    used = set("".join(names[old] for old in seen))
    assert spare
    assert {names[old] for old in spare} == {piece for piece in ids if len(piece) == 1 and piece not in used} - {
        min(content["model"]["vocab"], key=lambda entry: entry[1])[0]
    }
    kept = closed(content, seen, spare=spare)
    assert len(kept) == len(closed(content, seen)) - len(spare.difference(seen))
    small = Tokenizer.from_str(json.dumps(trimmed_tokenizer(content, kept)))
    assert [kept[new] for new in small.encode(text).ids] == seen
    unknown = small.token_to_id("<unk>")
    assert unknown not in small.encode("cohort hat loft").ids  # of the text's characters
    assert unknown in small.encode("Quiz").ids


@pytest.mark.parametrize("kind", ["WordPiece", "BPE"])
def test_characters_of_other_kinds_stay(kind):
    assert spare_characters(content_of(kind), []) == set()


def test_characters_stay_where_nothing_stands_for_them():
    content = content_of("Unigram")
    vocabulary = content["model"]["vocab"]
    assert fallback_of(content) == "<unk>"
    without = content | {"model": content["model"] | {"unk_id": None}}
    assert fallback_of(without) is None
    assert spare_characters(without, []) == set()
    of_bytes = {"vocab": [*vocabulary, ["<0x41>", -9.0]], "byte_fallback": True, "unk_id": None}
    with_bytes = content | {"model": content["model"] | of_bytes}
    assert fallback_of(with_bytes) == "bytes"
    assert len(vocabulary) not in spare_characters(with_bytes, [])
    assert spare_characters(with_bytes, [])
