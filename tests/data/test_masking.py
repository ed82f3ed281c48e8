"""Masks are a function of (seed, epoch, row), and have BERT's statistics."""

import copy
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from rows import each
from transformers import BertTokenizer, PreTrainedTokenizerFast

from homodistil_hf.data.masking import IGNORED_LABEL, MaskedLMCollator, ReplacedTokensCollator

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK = range(5)
VOCAB_SIZE = 105
ORDINARY = range(5, VOCAB_SIZE)


@pytest.fixture(scope="module")
def tokenizer():
    return BertTokenizer(vocab={token: i for i, token in enumerate([*SPECIAL, *(f"w{i}" for i in range(100))])})


def make_rows(num_rows, length=34, *, first_id=0, seed=0):
    """Full blocks `[CLS] … [SEP]` with one separator inside."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(num_rows):
        ids = rng.integers(5, VOCAB_SIZE, length)
        ids[0], ids[length // 2], ids[-1] = CLS, SEP, SEP
        rows.append({"input_ids": ids.tolist(), "example_id": first_id + i})
    return rows


def reference_mask(row_ids, *, seed, epoch, example_id, probability):
    """The documented recipe for one row, written as a loop."""
    counter = np.array([0, example_id, 0, 0], dtype=np.uint64)
    philox = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64), counter=counter)
    positions = [i for i, token in enumerate(row_ids) if token not in (PAD, CLS, SEP, MASK)]
    num_chosen = max(1, round(probability * len(positions)))
    words = [int(word) for word in philox.random_raw(len(positions) + 2 * num_chosen)]
    ranked = sorted(range(len(positions)), key=lambda i: words[i])[:num_chosen]
    ids, labels = list(row_ids), [IGNORED_LABEL] * len(row_ids)
    for k, i in enumerate(ranked):
        action, choice = words[len(positions) + k] / 2**64, words[len(positions) + num_chosen + k]
        labels[positions[i]] = row_ids[positions[i]]
        if action < 0.8:
            ids[positions[i]] = MASK
        elif action < 0.9:
            ids[positions[i]] = ORDINARY[choice % len(ORDINARY)]
    return ids, labels


@each("probability", [0.01, 0.15, 0.4, 0.99])
@each("length", [8, 9, 34, 128])
def test_masks_equal_the_documented_recipe(tokenizer, probability, length):
    collator = MaskedLMCollator(tokenizer, mlm_probability=probability, seed=11)
    collator.set_epoch(4)
    rows = make_rows(20, length, first_id=7)
    batch = collator(rows)
    for row, ids, labels in zip(rows, batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        expected = reference_mask(
            row["input_ids"], seed=11, epoch=4, example_id=row["example_id"], probability=probability
        )
        assert (ids, labels) == expected


def test_masks_stay_the_same_between_versions(tokenizer):
    """A checkpoint written today must resume with the same masks after an upgrade."""
    row = {"input_ids": [CLS, *range(5, 25), SEP], "example_id": 2**40}
    batch = MaskedLMCollator(tokenizer, mlm_probability=0.5, seed=3)([row])
    assert batch["masked_positions"].tolist() == [3, 4, 7, 8, 9, 11, 13, 14, 17, 19]
    assert batch["input_ids"][0, batch["masked_positions"]].tolist() == [MASK, 8, *[MASK] * 8]


def test_types_shapes_and_masked_positions(tokenizer):
    batch = MaskedLMCollator(tokenizer)(make_rows(3))
    assert set(batch) == {"input_ids", "labels", "masked_positions"}
    assert type(batch) is dict
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    assert batch["input_ids"].shape == batch["labels"].shape == (3, 34)
    flat = batch["labels"].flatten()
    assert batch["masked_positions"].tolist() == [i for i, label in enumerate(flat.tolist()) if label != IGNORED_LABEL]


def test_the_unknown_token_is_maskable_and_no_replacement(tokenizer):
    rows = [{"input_ids": [CLS, *[UNK] * 30, SEP], "example_id": i} for i in range(300)]
    batch = MaskedLMCollator(tokenizer, mlm_probability=0.9)(rows)
    labelled = batch["labels"] != IGNORED_LABEL
    assert labelled.sum() == 300 * 27
    replaced = batch["input_ids"][labelled]
    replaced = replaced[(replaced != UNK) & (replaced != MASK)]
    assert 600 < len(replaced) < 1000
    assert replaced.min() >= ORDINARY[0]


def test_an_unknown_token_that_is_also_the_end_token_stays_special():
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=word_level(), unk_token="<e>", eos_token="<e>", mask_token="<m>"
    )
    batch = MaskedLMCollator(tokenizer, mlm_probability=0.9)([{"input_ids": [0, 2, 3, 0], "example_id": 0}])
    assert batch["labels"].tolist() == [[IGNORED_LABEL, 2, 3, IGNORED_LABEL]]


def word_level():
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({"<e>": 0, "<m>": 1, "a": 2, "b": 3}, unk_token="<e>"))


def test_added_special_tokens_are_never_masked_nor_drawn():
    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate([*SPECIAL, "a", "b"])})
    tokenizer.add_special_tokens({"extra_special_tokens": ["[ENT]"]})
    entity = tokenizer.convert_tokens_to_ids("[ENT]")
    rows = [{"input_ids": [CLS, 5, entity, 6, entity, SEP], "example_id": i} for i in range(200)]
    batch = MaskedLMCollator(tokenizer, mlm_probability=0.9)(rows)
    assert batch["labels"][:, [2, 4]].unique().tolist() == [IGNORED_LABEL]
    assert batch["input_ids"][:, [1, 3]].unique().tolist() == [MASK, 5, 6]


def test_padding_does_not_change_the_mask_of_a_row_without_an_id(tokenizer):
    short, long = ({"input_ids": row["input_ids"]} for row in (make_rows(1, 10)[0], make_rows(1, 30)[0]))
    alone, both = MaskedLMCollator(tokenizer)([short]), MaskedLMCollator(tokenizer)([long, short])
    assert torch.equal(both["input_ids"][1, :10], alone["input_ids"][0])
    assert torch.equal(both["labels"][1, :10], alone["labels"][0])


def labels_of(tokenizer, rows, *, epoch=0, **settings):
    collator = MaskedLMCollator(tokenizer, **settings)
    collator.set_epoch(epoch)
    return collator(rows)["labels"]


def test_rows_without_an_id_are_told_apart_by_their_tokens(tokenizer):
    rows = [{"input_ids": row["input_ids"]} for row in make_rows(8)]
    first = MaskedLMCollator(tokenizer)(rows)
    again = MaskedLMCollator(tokenizer)(rows[::-1])
    assert torch.equal(first["labels"], again["labels"].flip(0))
    patterns = {tuple((row != IGNORED_LABEL).tolist()) for row in first["labels"]}
    assert len(patterns) == 8


def test_lists_arrays_and_tensors_give_the_same_batch(tokenizer):
    rows = make_rows(4)
    expected = MaskedLMCollator(tokenizer)(rows)
    for convert in (np.array, torch.tensor, lambda ids: np.array(ids, dtype=np.int32)):
        converted = [{"input_ids": convert(r["input_ids"]), "example_id": np.int64(r["example_id"])} for r in rows]
        batch = MaskedLMCollator(tokenizer)(converted)
        assert all(torch.equal(batch[name], expected[name]) for name in expected)
        # the rows themselves are left alone
        assert [list(row["input_ids"]) for row in converted] == [row["input_ids"] for row in rows]


def test_rows_of_different_lengths_are_padded(tokenizer):
    batch = MaskedLMCollator(tokenizer)([{"input_ids": [CLS, 5, 6, 7, SEP]}, {"input_ids": [CLS, 8, SEP]}])
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch["input_ids"][1, 3:].tolist() == [PAD, PAD]
    assert batch["labels"][1].tolist() == [IGNORED_LABEL, 8, IGNORED_LABEL, IGNORED_LABEL, IGNORED_LABEL]


def test_given_attention_masks_and_token_types_are_kept(tokenizer):
    rows = [
        {"input_ids": [CLS, 5, 6, SEP], "attention_mask": [1, 1, 0, 1], "token_type_ids": [0, 0, 1, 1], "other": "x"},
        {"input_ids": [CLS, 7, SEP], "attention_mask": [1, 1, 1], "token_type_ids": [0, 1, 1], "other": None},
    ]
    batch = MaskedLMCollator(tokenizer, mlm_probability=0.99)(rows)
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 1], [1, 1, 1, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 1, 1], [0, 1, 1, 0]]
    assert batch["masked_positions"].tolist() == [1, 5]  # the unattended token is not chosen
    assert "other" not in batch
    batch = MaskedLMCollator(tokenizer)([{"input_ids": [CLS, 5, SEP], "attention_mask": [1, 1, 1]}])
    assert "attention_mask" not in batch


def test_nothing_to_mask(tokenizer):
    batch = MaskedLMCollator(tokenizer)([{"input_ids": [CLS, SEP, SEP]}, {"input_ids": [CLS, MASK, SEP]}])
    assert batch["masked_positions"].shape == (0,)
    assert batch["masked_positions"].dtype == torch.int64
    assert batch["labels"].unique().tolist() == [IGNORED_LABEL]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_keep_the_epoch_and_part_ways(tokenizer, clone):
    collator = MaskedLMCollator(tokenizer, seed=5)
    collator.set_epoch(3)
    other = clone(collator)
    assert (other.epoch, other.seed) == (3, 5)
    assert other._epoch.is_shared()
    other.set_epoch(4)
    assert (collator.epoch, other.epoch) == (3, 4)


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_mask_like_this_process_and_follow_its_epoch(tokenizer, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    rows = make_rows(12)
    collator = MaskedLMCollator(tokenizer)
    loader = torch.utils.data.DataLoader(
        rows, batch_size=3, collate_fn=collator, num_workers=1, persistent_workers=True, multiprocessing_context=method
    )
    for epoch in (0, 1, 2):
        collator.set_epoch(epoch)
        got = torch.cat([batch["labels"] for batch in loader])
        assert torch.equal(got, labels_of(tokenizer, rows, epoch=epoch))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(
            ({"mlm_probability": share}, rf"mlm_probability={share} is out of range; expected .* between 0 and 1")
            for share in (0.0, 1.0, -0.1, 15, float("nan"))
        ),
        *(({"seed": seed}, rf"seed={seed} is out of range") for seed in (-1, 2**64)),
        (
            {"tokenizer": PreTrainedTokenizerFast(tokenizer_object=word_level(), unk_token="<e>")},
            "has no mask token; .*add_special_tokens",
        ),
        (
            {"tokenizer": BertTokenizer(vocab={token: i for i, token in enumerate(SPECIAL)})},
            "tokenizer has no vocabulary beside special tokens; use the one saved with the model",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(tokenizer, settings, message):
    with pytest.raises(ValueError, match=message):
        MaskedLMCollator(**{"tokenizer": tokenizer, **settings})


def test_rows_without_input_ids_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"columns \['label', 'text'\], but no input_ids; .*tokenize_to_blocks"):
        MaskedLMCollator(tokenizer)([{"text": "a", "label": 0}])


def test_padding_without_a_padding_token_is_refused():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=word_level(), unk_token="<e>", mask_token="<m>")
    collator = MaskedLMCollator(tokenizer)
    assert collator([{"input_ids": [2, 3]}, {"input_ids": [3, 2]}])["input_ids"].shape == (2, 2)
    with pytest.raises(ValueError, match="no padding token, but rows have 1 to 3 input_ids; .*pad_token"):
        collator([{"input_ids": [2, 3, 2]}, {"input_ids": [3]}])


def test_replaced_tokens_are_those_that_would_be_masked(tokenizer):
    rows = make_rows(200)
    masked = MaskedLMCollator(tokenizer, seed=3)(rows)
    replaced = ReplacedTokensCollator(tokenizer, seed=3)(rows)
    before = torch.tensor([row["input_ids"] for row in rows])
    was_chosen = masked["labels"] != IGNORED_LABEL
    is_special = torch.isin(before, torch.tensor([PAD, CLS, SEP, MASK]))
    assert torch.equal(replaced["labels"] == IGNORED_LABEL, is_special)
    assert torch.equal(replaced["labels"] == 1, replaced["input_ids"] != before)
    assert not bool((replaced["labels"] == 1)[~was_chosen].any())
    assert float((replaced["labels"] == 1)[was_chosen].float().mean()) == pytest.approx(0.99, abs=0.01)
    assert not bool((replaced["input_ids"] == MASK).any())
    assert torch.equal(replaced["masked_positions"], (~is_special).flatten().nonzero().flatten())
    padded = ReplacedTokensCollator(tokenizer, seed=3)([rows[0], {"input_ids": rows[1]["input_ids"][:9]}])
    assert bool((padded["labels"][1, 9:] == IGNORED_LABEL).all())
