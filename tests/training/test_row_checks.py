"""What a trainer refuses of rows, segments, token ids and batches; `test_labels.py` has the labels."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset, concatenate_datasets
from datasets.distributed import split_dataset_by_node
from rows import each
from students import make_batch
from tiny_architectures import tiny_architecture_teacher
from tiny_models import GRADUAL, make_blocks, make_teacher, tiny_config
from transformers import BatchEncoding, BertConfig, BertTokenizer, MPNetConfig, RobertaConfig, default_data_collator

from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.training.row_checks import check_data, checked_batch, rows_digest
from homodistil_hf.training.streams import order_digest

# The data


def rows_of(length: int) -> list[dict[str, list[int]]]:
    return [{"input_ids": [5] * length}]


class Encoded(torch.utils.data.Dataset):
    """A data set of the kind that tokenizers' users write."""

    def __init__(self, length: int):
        self.length = length

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> BatchEncoding:
        return BatchEncoding({"input_ids": [5] * self.length})


class Streamed(torch.utils.data.IterableDataset):
    """A stream that knows its length."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        return iter(rows_of(99) * 3)


@each("make", [rows_of, Encoded, lambda length: Dataset.from_list(rows_of(length))])
def test_sequences_over_the_teachers_positions_are_refused(make):
    check_data({"train_dataset": make(32)}, None, tiny_config())
    message = "^train_dataset has sequences of 33 tokens, above the teacher's positions=32; set max_seq_length"
    with pytest.raises(ValueError, match=message):
        check_data({"train_dataset": make(33)}, None, tiny_config())


EMPTY = r"is empty \(0 rows\); check its filters, split and path"
NO_LIST = "has a row with input_ids={}; expected a list of tok"


@each(
    ("name", "rows", "message"),
    [
        ("train_dataset", [], EMPTY),
        ("train_dataset", make_blocks().select([]), EMPTY),
        ("eval_dataset", make_blocks().select([]), EMPTY),
        (r"eval_dataset\['a'\]", Dataset.from_list(rows_of(40)), "has sequences of 40 tokens"),
        (r"eval_dataset\['a'\]", ["a text"], "has a row .*; expected mappings with input_ids"),
        (r"eval_dataset\['a'\]", [[1, 2, 3]], "has a row .*; expected mappings with input_ids"),
        ("train_dataset", [{"text": "words"}], "has rows of text, but no input_ids; tokenize it first"),
        *(
            ("train_dataset", Dataset.from_dict({"input_ids": [value]}), NO_LIST.format(repr(value)))
            for value in (7, "w5 w6", None)
        ),
    ],
)
def test_rows_that_can_not_be_read_are_refused(name, rows, message):
    data = {"train_dataset": make_blocks(), name: rows}
    if "'a'" in name:
        data = {"eval_dataset": {"b": make_blocks(), "a": rows}}
    with pytest.raises(ValueError, match=f"^{name} {message}"):
        check_data(data, None, tiny_config())


@each("dataset", [None, IterableDataset.from_generator(lambda: iter(rows_of(99))), Streamed(), [[1, 2]]])
def test_what_can_not_be_looked_at_passes(dataset):
    check_data({"train_dataset": dataset}, None, tiny_config())


def test_the_first_rows_of_a_table_are_looked_at():
    lengths = [8] * 9_999 + [40, 48]
    rows = Dataset.from_dict({"input_ids": [[5] * length for length in lengths]})
    for table in (rows, rows.select(range(len(rows)))):
        with pytest.raises(ValueError, match="^train_dataset has sequences of 40 tokens"):
            check_data({"train_dataset": table}, None, tiny_config())
    # No more than those: one with an index is read row by row.
    check_data({"train_dataset": rows.select([*range(9_999), 0, 10_000])}, None, tiny_config())
    check_data({"train_dataset": rows.select([0, 0])}, None, tiny_config())


@pytest.mark.parametrize(("length", "is_long"), [(32, False), (33, True)])
def test_the_shape_of_a_batch_is_checked(length, is_long):
    batch = {"input_ids": torch.empty(2, length, dtype=torch.int64, device="meta")}  # which has no values to wait for
    message = "^a batch has sequences of 33 tokens, above the teacher's positions=32; set max_seq_length"
    with pytest.raises(ValueError, match=message) if is_long else nullcontext():
        checked_batch(batch, tiny_config())
    checked_batch({"inputs_embeds": torch.zeros(2, 99, 4)}, tiny_config())


def test_a_tokenizer_of_another_vocabulary_is_refused(tokenizer):
    check_data({}, tokenizer, tiny_config())
    check_data({}, object(), tiny_config())
    with pytest.raises(
        ValueError, match="tokenizer has 96 tokens, but the teacher's vocab_size=90; use the tokenizer"
    ):
        check_data({}, tokenizer, tiny_config(vocab_size=90))
    other = BertTokenizer(
        vocab={word: i for i, word in enumerate(["[UNK]", "[CLS]", "[SEP]", "[MASK]", "[PAD]", "w"])}
    )
    check_data({}, other, BertConfig(vocab_size=6))  # masked, whatever its id
    for kind in (RobertaConfig, MPNetConfig):  # positions begin behind it
        with pytest.raises(ValueError, match="tokenizer has pad_token_id=4, but the model's pad_token_id=1"):
            check_data({}, other, kind(vocab_size=6, pad_token_id=1))


# Segments and token ids


def two_segments():
    batch = make_batch("sequence_classification", num_rows=8)
    batch["token_type_ids"] = (torch.arange(batch["input_ids"].shape[1]) >= 6).long().expand(8, -1)
    rows = [{name: tensor[index].tolist() for name, tensor in batch.items()} for index in range(8)]
    return make_teacher("sequence_classification"), rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config"), [("bert", {"type_vocab_size": 1}), ("distilbert", {}), ("mpnet", {}), ("roberta", {})]
)
def test_segments_are_dropped_where_a_model_has_none(trained, name, config):
    architecture = ARCHITECTURES[name]
    (head,) = (head for head in architecture.heads if head.kind.name == "sequence_classification")
    _, rows = two_segments()
    model = tiny_architecture_teacher(architecture, head, **config)
    data = {"train_dataset": rows, "eval_dataset": rows, "data_collator": default_data_collator}
    trainer = trained(model=model, max_steps=2, **data)
    assert trainer.evaluate()["eval_loss"] > 0
    assert trainer.evaluate_teacher()


@pytest.mark.parametrize("wrong", [tiny_config().vocab_size, -1])
def test_token_ids_that_the_model_does_not_have_are_refused(wrong):
    message = f"has the token id {wrong}, but the model's vocab_size={tiny_config().vocab_size}; tokenize"
    rows = Dataset.from_dict({"input_ids": [[2, 5, 3], [2, wrong, 3]]})
    with pytest.raises(ValueError, match=f"^train_dataset {message}"):
        check_data({"train_dataset": rows}, None, tiny_config())
    with pytest.raises(ValueError, match=f"^a batch {message}"):
        checked_batch({"input_ids": torch.tensor(rows["input_ids"][:])}, tiny_config())


@pytest.mark.slow
def test_rows_that_nobody_looked_at_stop_training_and_evaluation_in_words(make_trainer):
    rows = [{"input_ids": [2, *[5] * length, 3], "example_id": i} for i, length in enumerate([14] * 15 + [38])]
    settings = {"train_sampling_strategy": "sequential"} | GRADUAL
    model, others = two_segments()
    others[-1]["input_ids"][3] = model.config.vocab_size
    for trainer, data, message in (
        (make_trainer(train_dataset=rows, **settings), rows, "has sequences of 40 tokens, above the teacher's positi"),
        (
            make_trainer(model=model, train_dataset=[*others, *others], **settings),
            others,
            "has the token id 96, but the model's vocab_size=96; tokenize",
        ),
    ):
        for run in (trainer.train, partial(trainer.evaluate, data)):
            with pytest.raises(ValueError, match=f"^a batch {message}"):
                run()


# What has rows, but gives none


@each(
    ("make", "remedy"),
    [
        (lambda rows: DatasetDict(train=rows), r"one of its parts, such as train_dataset\['train'\]"),
        (lambda rows: {"input_ids": rows["input_ids"][:]}, r"datasets.Dataset.from_dict\(train_dataset\)"),
        (lambda rows: rows.to_pandas(), r"datasets.Dataset.from_pandas\(train_dataset\)"),
        (torch.utils.data.DataLoader, "its data set, train_dataset.dataset, and its collate_fn"),
        (lambda rows: (row for row in rows), r"datasets.IterableDataset.from_generator\(function\)"),
        (lambda rows: lambda: rows, r"datasets.IterableDataset.from_generator\(function\)"),
        (lambda rows: "train.txt", "homodistil_hf.tokenize_to_blocks"),
        (lambda rows: Path("train.txt"), "homodistil_hf.tokenize_to_blocks"),
        (lambda rows: torch.ones(4, 8), r"datasets.Dataset.from_dict\(\{'input_ids': train_dataset.tolist\(\)\}\)"),
        (lambda rows: BatchEncoding({"input_ids": [[1]]}), r"datasets.Dataset.from_dict\(dict\(train_dataset\)\)"),
    ],
)
def test_what_gives_no_rows_is_refused_with_what_to_give(make, remedy):
    given = make(make_blocks(8))
    name = type(given).__name__
    with pytest.raises(ValueError, match=f"^train_dataset is a {name}; expected rows, .*: give {remedy}"):
        check_data({"train_dataset": given}, None, tiny_config())


def test_sets_by_name_are_evaluated():
    rows = make_blocks(8)
    check_data({"train_dataset": rows, "eval_dataset": DatasetDict(a=rows, b=rows)}, None, tiny_config())
    check_data({"train_dataset": list(rows), "eval_dataset": rows.to_iterable_dataset()}, None, tiny_config())


def test_a_set_that_is_evaluated_later_is_looked_at_too(make_trainer):
    trainer = make_trainer()
    with pytest.raises(ValueError, match="^the data set to evaluate on is a DataFrame; expected rows"):
        trainer.evaluate(make_blocks(8).to_pandas())


def test_paths_name_models(make_trainer, tmp_path):
    make_teacher().save_pretrained(tmp_path / "teacher")
    trainer = make_trainer(model=tmp_path / "teacher", teacher_model=tmp_path / "teacher")
    assert trainer.distillation.teacher.exact.config.name_or_path == str(tmp_path / "teacher")


@each("model", [5, {}, BertConfig(), BertConfig])
def test_what_is_no_model_is_called_what_it_is(make_trainer, model):
    with pytest.raises(ValueError, match=f"^model is a {type(model).__name__}; expected a folder, a name on the H"):
        make_trainer(model=model)


def test_a_digest_of_all_rows_knows_each_of_them():
    rows = Dataset.from_dict({"text": [f"w{row}" for row in range(500)], "label": [row % 2 for row in range(500)]})
    other = Dataset.from_dict({**rows[:], "label": [*rows["label"][:-2], 1, 1]})
    assert rows_digest(rows, num_rows=None) == rows_digest(Dataset.from_dict(rows[:]), num_rows=None)
    assert rows_digest(rows, num_rows=None) != rows_digest(other, num_rows=None)
    assert rows_digest(rows).startswith("500 rows, digest ")
    assert rows_digest(rows) != rows_digest(other)
    assert rows_digest(rows.to_iterable_dataset()) is None


def test_the_order_of_a_stream_is_told_from_others():
    stream = make_blocks(16).to_iterable_dataset(num_shards=4)
    orders = [stream, *(stream.shuffle(seed=seed, buffer_size=4) for seed in (1, 2, None, None))]
    orders.append(split_dataset_by_node(stream, rank=1, world_size=2))
    assert len({order_digest(one) for one in orders}) == len(orders)
    assert order_digest(orders[1]) == order_digest(stream.shuffle(seed=1, buffer_size=4).map(lambda row: row))
    mixtures = [concatenate_datasets([stream, stream.shuffle(seed=seed, buffer_size=4)]) for seed in (1, 2)]
    assert order_digest(mixtures[0]) != order_digest(mixtures[1])
