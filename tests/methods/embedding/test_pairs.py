"""Pairs of texts as rows: each with its own second text, and with others of its batch."""

import pytest
from datasets import Dataset
from tiny_models import tiny_tokenizer

from homodistil_hf.methods.embedding.pairs import tokenize_pairs
from homodistil_hf.methods.embedding.texts import TextCollator

PAIRS = Dataset.from_dict({"first": [f"w{i}" for i in range(10, 20)], "second": [f"w{i} w7" for i in range(30, 40)]})


def words(row):
    tokenizer = tiny_tokenizer()
    sides = [[], []]
    for token, side in zip(row["input_ids"], row["token_type_ids"], strict=True):
        if token not in tokenizer.all_special_ids:
            sides[side].append(tokenizer.decode([token]))
    return tuple(" ".join(side) for side in sides)


def test_each_pair_comes_with_others():
    found = [words(row) for row in tokenize_pairs(PAIRS, tiny_tokenizer(), max_length=16, num_others=2)]
    assert len(found) == 30
    for index, row in enumerate(PAIRS):
        own, *others = found[3 * index : 3 * index + 3]
        assert own == (row["first"], row["second"])
        assert all(first == row["first"] and second in PAIRS["second"] for first, second in others)
        assert row["second"] not in [second for _, second in others]
    again = [words(row) for row in tokenize_pairs(PAIRS, tiny_tokenizer(), max_length=16, num_others=2)]
    assert again == found


def test_pairs_without_a_text_are_left_out():
    pairs = Dataset.from_dict({"first": ["w9", None, ""], "second": ["w8", "w7", "w7"]})
    (row,) = tokenize_pairs(pairs, tiny_tokenizer(), max_length=16)  # no other text to be had
    assert words(row) == ("w9", "w8")
    with pytest.raises(ValueError, match="no pair of two texts"):
        tokenize_pairs(pairs.select([1, 2]), tiny_tokenizer(), max_length=16)


def test_long_pairs_are_cut():
    pairs = Dataset.from_dict({"first": ["w9 w10"], "second": ["w8 " * 30]})
    (row,) = tokenize_pairs(pairs, tiny_tokenizer(), max_length=12)
    assert len(row["input_ids"]) == 12
    assert words(row)[0] == "w9 w10"


def test_batches_have_both_segments_and_signs():
    rows = list(tokenize_pairs(PAIRS, tiny_tokenizer(), max_length=16))
    batch = TextCollator(tiny_tokenizer(), dimension=1)(rows)
    assert batch["token_type_ids"].shape == batch["input_ids"].shape == batch["attention_mask"].shape
    assert set(batch["labels"].flatten().tolist()) == {1.0, -1.0}
