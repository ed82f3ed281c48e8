"""Texts and pairs as rows: paragraphs, lengths side by side, and the same directions and other texts every time."""

import pytest
import torch
from datasets import Dataset
from rows import each
from tiny_embeddings import make_rows
from tiny_models import tiny_config, tiny_tokenizer
from tiny_tokenizers import python_tokenizer

from homodistil_hf.data.corpus import load_text
from homodistil_hf.embedding.reranker import tokenize_pairs
from homodistil_hf.embedding.texts import TextCollator, mixed, tokenize_texts
from homodistil_hf.models.tokenizers import padding_multiple, rows_of_texts

PAIRS = Dataset.from_dict({"first": [f"w{i}" for i in range(10, 20)], "second": [f"w{i} w7" for i in range(30, 40)]})


def test_a_row_is_a_paragraph_or_what_is_left_of_one():
    documents = Dataset.from_dict({"text": ["w5 w6 w7 w8\n\nw9\n" + "w10 " * 9, None]})
    rows = tokenize_texts(documents, tiny_tokenizer(), max_length=8, least_characters=5)
    assert rows["input_ids"][:] == [[2, 5, 6, 7, 8, 3], [2, *[10] * 6, 3], [2, *[10] * 3, 3]]
    prompted = tokenize_texts(documents, tiny_tokenizer(), max_length=8, least_characters=5, prepare="w11 {}".format)
    assert prompted["input_ids"][0] == [2, 11, 5, 6, 7, 8, 3]
    with pytest.raises(ValueError, match="no paragraph of 1000 characters or more; name other data, or a prompt"):
        tokenize_texts(documents, tiny_tokenizer(), max_length=8, least_characters=1000)


def test_a_stream_of_documents_is_tokenized_as_a_table_is():
    documents = Dataset.from_dict({"text": ["w5 w6 w7 w8\n\nw9\n" + "w10 " * 9, None, "w11 w12 w13"]})
    settings = {"max_length": 8, "least_characters": 5}
    stream = tokenize_texts(documents.to_iterable_dataset(), tiny_tokenizer(), **settings)
    assert [row["input_ids"] for row in stream] == tokenize_texts(documents, tiny_tokenizer(), **settings)[
        "input_ids"
    ][:]


@pytest.mark.slow
def test_sources_are_mixed_by_weight():
    first, second = make_rows(40), make_rows(40, seed=1)
    rows = [tuple(ids) for ids in mixed([first, second], [0.5, 2.25])["input_ids"]]
    counts = [sum(tuple(ids) in set(map(tuple, table["input_ids"])) for ids in rows) for table in (first, second)]
    assert counts == [20, 90]
    assert mixed([first], [1.0])["input_ids"][:] == first["input_ids"][:]
    streams = [first.to_iterable_dataset(), second.to_iterable_dataset()]
    own = set(map(tuple, first["input_ids"]))
    found = [tuple(row["input_ids"]) in own for row in mixed(streams, [3.0, 1.0]).take(400)]
    assert sum(found) == pytest.approx(300, abs=40)
    few, many = make_rows(5), make_rows(300, seed=1)
    mixture = mixed([few.to_iterable_dataset(), many.to_iterable_dataset()], [1.0, 1.0])
    seen = {tuple(row["input_ids"]) for row in mixture.take(700)}
    assert seen >= set(map(tuple, many["input_ids"]))  # the end of a short one is not the end of the others


def test_directions_belong_to_texts():
    collate = TextCollator(tiny_tokenizer(), dimension=5, seed=1)
    rows = [{"input_ids": ids} for ids in make_rows(4)["input_ids"]]
    batch, turned = collate(rows), collate(rows[::-1])
    assert batch["input_ids"].shape[1] % 8 == 0
    assert batch["attention_mask"].sum(1).tolist() == [len(row["input_ids"]) for row in rows]
    assert torch.equal(batch["labels"], turned["labels"].flip(0))
    assert torch.allclose(batch["labels"].norm(dim=-1), torch.ones(4))
    assert not torch.equal(batch["labels"][0], batch["labels"][1])
    other = TextCollator(tiny_tokenizer(), dimension=5, seed=2)(rows)
    assert not torch.equal(batch["labels"], other["labels"])


@each(("positions", "length"), [(34, 33), (32, 32)])
def test_padded_lengths_stay_within_the_positions(positions, length, tokenizer):
    multiple = padding_multiple(tiny_config(max_position_embeddings=positions))
    collator = TextCollator(tokenizer, dimension=2, multiple=multiple)
    rows = [{"input_ids": list(range(5, 5 + number))} for number in (3, length)]
    assert collator(rows)["input_ids"].shape == (2, length)
    assert TextCollator(tokenizer, dimension=2)(rows[:1])["input_ids"].shape == (1, 8)


def test_short_rows_of_tables_stay_and_headings_do_not(tmp_path):
    long, words = "w5 w6 w7 w8 w9 w10 w11", convert(tiny_tokenizer())
    table = Dataset.from_dict({"text": ["w5 w6", f"w7\n{long}", None, " ", "w8"]})
    rows = tokenize_texts(table, tiny_tokenizer(), max_length=16)
    assert [words(row) for row in rows["input_ids"]] == ["w5 w6", long, "w8"]
    (tmp_path / "a.txt").write_text(f"w5\n\nw7\n{long}\n\nw8")
    headings = tokenize_texts(load_text(tmp_path / "a.txt"), tiny_tokenizer(), max_length=16)
    assert [words(row) for row in headings["input_ids"]] == [long]


@each("name", ["a.jsonl", "a.parquet"])
@each("streaming", [False, True])
def test_short_rows_of_files_stay(tmp_path, name, streaming):
    table = Dataset.from_dict({"text": ["w5 w6", "w7", "w8 w9"]})
    (table.to_json if name.endswith("jsonl") else table.to_parquet)(tmp_path / name)
    documents = load_text(tmp_path / name, streaming=streaming)
    assert len(list(tokenize_texts(documents, tiny_tokenizer(), max_length=16))) == 3


def convert(tokenizer):
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=True)


def words(row):
    tokenizer = tiny_tokenizer()
    sides = [[], []]
    for token, side in zip(row["input_ids"], row["token_type_ids"], strict=True):
        if token not in tokenizer.all_special_ids:
            sides[side].append(tokenizer.decode([token]))
    return tuple(" ".join(side) for side in sides)


def test_each_pair_comes_with_others():
    found = [words(row) for row in tokenize_pairs(PAIRS, tiny_tokenizer(), max_length=16)]
    assert len(found) == 20
    for row, own, (first, second) in zip(PAIRS, found[::2], found[1::2], strict=True):
        assert own == (row["first"], row["second"])
        assert first == row["first"]
        assert second in {*PAIRS["second"]} - {row["second"]}
    again = [words(row) for row in tokenize_pairs(PAIRS, tiny_tokenizer(), max_length=16)]
    assert again == found


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


def test_tokenizers_in_python_lose_no_text(tmp_path):
    slow = python_tokenizer(tmp_path)
    texts = [" ".join(f"w{number}" for number in range(5, 5 + length)) for length in (13, 2, 6, 7)]
    expected = rows_of_texts(tiny_tokenizer(), texts, 8)["input_ids"]
    rows = tokenize_texts(Dataset.from_dict({"text": texts}), slow, max_length=8, least_characters=1)
    assert rows["input_ids"][:] == expected
