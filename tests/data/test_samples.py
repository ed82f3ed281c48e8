import pytest
import torch
from datasets import Dataset

from homodistil_hf.data.samples import drawn, unlabeled_batches

TEXTS = ["w5 w6 w7", "w8", " ", None, "w9 w10", "w11 w12 w13 w14"]


def test_rows_of_like_length_are_padded_together(tokenizer):
    batches = unlabeled_batches([TEXTS], tokenizer, batch_size=2)
    assert [batch["input_ids"].tolist() for batch in batches] == [
        [[2, 8, 3, 0], [2, 9, 10, 3]],
        [[2, 5, 6, 7, 3, 0], [2, 11, 12, 13, 14, 3]],
    ]
    assert all(torch.equal(batch["attention_mask"], (batch["input_ids"] != 0).long()) for batch in batches)


def test_pairs_are_told_apart_and_cut(tokenizer):
    (batch,) = unlabeled_batches([["w5 w6", None], ["w7", ""]], tokenizer, max_length=5)
    assert batch["input_ids"].tolist() == [[2, 5, 3, 7, 3]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1]]


def test_a_long_text_becomes_several_rows_of_which_some_are_drawn(tokenizer):
    texts = [" ".join(f"w{number}" for number in range(5, 16)), "w20"]
    batches = unlabeled_batches([texts], tokenizer, max_length=6, batch_size=1)
    expected = [[2, 20, 3], [2, 13, 14, 15, 3], [2, 5, 6, 7, 8, 3], [2, 9, 10, 11, 12, 3]]
    assert [batch["input_ids"].tolist() for batch in batches] == [[row] for row in expected]
    draws = [unlabeled_batches([texts], tokenizer, max_length=6, num_rows=2, seed=seed)[0] for seed in (0, 0, 1, 2, 3)]
    assert all(len(draw["input_ids"]) == 2 for draw in draws)
    found = [draw["input_ids"].tolist() for draw in draws]
    assert found[0] == found[1]
    assert any(rows != found[0] for rows in found)


def test_no_text_is_an_error(tokenizer):
    with pytest.raises(ValueError, match="have no text in any row; name others, or another column"):
        unlabeled_batches([[" ", None]], tokenizer)


def test_rows_are_drawn_once_and_always_the_same():
    rows = Dataset.from_dict({"text": list(map(str, range(50)))})
    found = drawn(rows, 20, seed=1)["text"][:]
    assert len(set(found)) == 20
    assert found == sorted(found, key=int) == drawn(rows, 20, seed=1)["text"][:]
    assert found != drawn(rows, 20, seed=2)["text"][:]
    assert drawn(rows, 50, seed=1)["text"][:] == rows["text"][:]
