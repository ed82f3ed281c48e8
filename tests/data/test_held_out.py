"""Documents that are held out, where a stream has too few, or those that are chosen have no text."""

import pytest
from datasets import Dataset

from homodistil_hf.data.corpus import hold_out


def stream(num_documents):
    return Dataset.from_dict({"text": [str(number) for number in range(num_documents)]}).to_iterable_dataset()


@pytest.mark.parametrize("num_documents", [1, 7, 1000])
def test_a_stream_that_ends_with_what_is_held_out_is_refused(num_documents):
    with pytest.raises(ValueError, match="a stream of at most 1,000 documents, has no text to train on beside"):
        hold_out(stream(num_documents))


def test_the_first_documents_of_a_stream_are_held_out():
    train, held_out, words = hold_out(stream(1002))
    assert words == "the first 1,000 documents"
    assert [row["text"] for row in train] == ["1000", "1001"]
    assert [row["text"] for row in held_out] == [str(number) for number in range(1000)]


@pytest.mark.parametrize("num_shards", [2, 3, 16])  # of 16, two shards are held out whole and one in part
def test_shards_that_are_not_held_out_stay_shards(num_shards):
    documents = Dataset.from_dict({"text": [str(number) for number in range(6000)]})
    train, held_out, _ = hold_out(documents.to_iterable_dataset(num_shards=num_shards))
    assert [row["text"] for row in held_out] == [str(number) for number in range(1000)]
    assert [row["text"] for row in train] == [str(number) for number in range(1000, 6000)]
    assert train.num_shards == num_shards - 1000 // (6000 // num_shards)
    apart = [row["text"] for place in range(train.num_shards) for row in train.shard(train.num_shards, place)]
    assert apart == [row["text"] for row in train]


@pytest.mark.parametrize(("num_documents", "found"), [(0, "0 documents"), (1, "1 document")])
def test_a_table_of_too_few_documents_is_refused(num_documents, found):
    documents = Dataset.from_dict({"text": ["w1"] * num_documents})
    with pytest.raises(ValueError, match=f"^train_data has {found}; expected 2 or more, or documents as eval_data$"):
        hold_out(documents)
    with pytest.raises(ValueError, match=f"^train_data='a.txt' has {found}; expected"):
        hold_out(documents, label="train_data='a.txt'")
