import json
import os
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from students import make_batch
from tiny_architectures import tiny_architecture_teacher
from tiny_models import GRADUAL, make_blocks, make_teacher, tiny_config
from transformers import BatchEncoding, BertConfig, BertTokenizer, TrainingArguments, default_data_collator

from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments
from homodistil_hf.files import folders
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.compiling import compiling_problem
from homodistil_hf.training import pair as preparation
from homodistil_hf.training.checks import (
    check_data,
    check_output_dir,
    checked_batch,
    existing_files,
    own_arguments,
    pin_data_order,
    settings_that_matter,
    warn_of_other_settings,
)


def make_args(**settings: Any) -> HomoDistilTrainingArguments:
    return HomoDistilTrainingArguments(**{"output_dir": "out", "report_to": "none", "use_cpu": True} | settings)


# Settings and arguments


def test_stock_settings_are_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(preparation, "load_encoder_config", lambda *args, **kwargs: pytest.fail("a config was read"))
    stock = TrainingArguments(output_dir="out", report_to="none", use_cpu=True)
    message = "^args is a TrainingArguments, which hasn't all settings of this method; make it a HomoDistilTrainingArg"
    with pytest.raises(ValueError, match=message):
        HomoDistilTrainer("no/such-teacher", stock)
    with pytest.raises(ValueError, match="^args is a NoneType, "):
        own_arguments(None, HomoDistilTrainingArguments)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"even_batches": False}, "even_batches=False; the last batches of a pass would be those of some ranks only"),
        ({"split_batches": True}, "split_batches=True; the rows of a step would depend on the number of ranks: leave"),
        ({"dispatch_batches": True}, "dispatch_batches=True; every rank must make its own batches: leave it out"),
        ({"use_seedable_sampler": False}, "use_seedable_sampler=False; every rank must draw its rows in a seeded ord"),
    ],
)
def test_other_ways_to_share_rows_are_refused(config, message):
    with pytest.raises(ValueError, match=f"^accelerator_config has {message}"):
        pin_data_order(make_args(accelerator_config=config))


def test_batches_in_whatever_order_are_refused():
    args = make_args()
    args.dataloader_in_order = False  # no setting of the oldest transformers
    with pytest.raises(
        ValueError, match="^dataloader_in_order=False hands out batches .* workers finish, .*; leave it"
    ):
        pin_data_order(args)


def test_the_order_of_the_data_follows_the_seed():
    args = make_args(seed=7)
    pin_data_order(args)
    assert (args.data_seed, args.accelerator_config.dispatch_batches) == (7, False)
    args = make_args(seed=7, data_seed=8)
    pin_data_order(args)
    assert args.data_seed == 8


# Where to


def test_an_output_folder_is_made(tmp_path):
    folder = tmp_path / "a" / "b"
    assert existing_files(str(folder)) == []
    check_output_dir(str(folder))
    check_output_dir(str(folder))
    for name in ("b.txt", "a.txt"):
        (folder / name).touch()
    assert existing_files(str(folder)) == ["a.txt", "b.txt"]


def test_what_another_rank_tries_to_write_is_no_earlier_file(tmp_path, monkeypatch):
    seen = []

    class Watched(TemporaryDirectory):
        def __enter__(self) -> str:
            seen.append((os.listdir(tmp_path), existing_files(str(tmp_path))))
            return super().__enter__()

    monkeypatch.setattr(folders, "TemporaryDirectory", Watched)
    folders.check_writable(tmp_path / "student", "output_dir")
    ((names, earlier_files),) = seen
    assert (len(names), earlier_files) == (1, [])


def test_a_file_is_no_output_folder(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "below"):
        with pytest.raises(
            ValueError, match=rf"^output_dir='{re.escape(str(path))}' can't be created \(.*\); name a folder"
        ):
            check_output_dir(str(path))
    assert existing_files(str(file)) == []


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    with pytest.raises(ValueError, match="^output_dir='.*' can't be written; change its permissions or name another"):
        check_output_dir(str(tmp_path))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_permissions_of_the_system_are_respected(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ValueError, match="can't be written"):
            check_output_dir(str(tmp_path))
        with pytest.raises(ValueError, match="can't be created"):
            check_output_dir(str(tmp_path / "below"))
    finally:
        tmp_path.chmod(0o700)


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


@pytest.mark.parametrize("make", [rows_of, Encoded, lambda length: Dataset.from_list(rows_of(length))])
def test_sequences_over_the_teachers_positions_are_refused(make):
    check_data({"train_dataset": make(32)}, None, tiny_config())
    message = "^train_dataset has sequences of 33 tokens, above the teacher's positions=32; set max_seq_length"
    with pytest.raises(ValueError, match=message):
        check_data({"train_dataset": make(33)}, None, tiny_config())


@pytest.mark.parametrize("make", [list, lambda: make_blocks().select([])], ids=["list", "datasets"])
def test_no_rows_are_refused(make):
    with pytest.raises(ValueError, match=r"^train_dataset is empty \(0 rows\); check its filters, split and path"):
        check_data({"train_dataset": make()}, None, tiny_config())


@pytest.mark.parametrize(
    "dataset",
    [None, IterableDataset.from_generator(lambda: iter(rows_of(99))), Streamed(), [[1, 2]]],
    ids=["none", "stream", "stream with a length", "lists"],
)
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


def test_a_row_that_nobody_looked_at_stops_the_training_in_words(make_trainer):
    rows = [{"input_ids": [2, *[5] * length, 3], "example_id": i} for i, length in enumerate([14] * 15 + [38])]
    trainer = make_trainer(train_dataset=rows, train_sampling_strategy="sequential", **GRADUAL)
    with pytest.raises(ValueError, match="^a batch has sequences of 40 tokens, above the teacher's positions"):
        trainer.train()
    assert trainer.state.global_step == 1
    with pytest.raises(ValueError, match="^a batch has sequences of 40 tokens"):
        trainer.evaluate(rows)


def test_evaluation_sets_are_looked_at_too():
    with pytest.raises(ValueError, match=r"^eval_dataset is empty \(0 rows\)"):
        check_data({"train_dataset": make_blocks(), "eval_dataset": make_blocks().select([])}, None, tiny_config())

    sets = {"short": make_blocks(), "long": Dataset.from_list(rows_of(40))}
    with pytest.raises(ValueError, match=r"^eval_dataset\['long'\] has sequences of 40 tokens"):
        check_data({"eval_dataset": sets}, None, tiny_config())


def test_text_that_is_not_tokenized_is_refused():
    with pytest.raises(ValueError, match="^train_dataset has rows of text, but no input_ids; tokenize it first"):
        check_data({"train_dataset": [{"text": "words"}]}, None, tiny_config())


@pytest.mark.parametrize("value", [7, "w5 w6", None])
def test_rows_whose_ids_are_no_list_are_refused(value):
    with pytest.raises(ValueError, match=f"^train_dataset has a row with input_ids={value!r}; expected a list of tok"):
        check_data({"train_dataset": Dataset.from_dict({"input_ids": [value]})}, None, tiny_config())


def test_a_tokenizer_of_another_vocabulary_is_refused(tokenizer):
    check_data({}, tokenizer, tiny_config())
    check_data({}, object(), tiny_config())
    with pytest.raises(
        ValueError, match="tokenizer has 96 tokens, but the teacher's vocab_size=90; use the tokenizer"
    ):
        check_data({}, tokenizer, tiny_config(vocab_size=90))
    other = BertTokenizer(vocab={word: i for i, word in enumerate(["[UNK]", "[CLS]", "[SEP]", "[MASK]", "[PAD]"])})
    with pytest.raises(ValueError, match="tokenizer has pad_token_id=4, but the teacher's pad_token_id=0"):
        check_data({}, other, BertConfig(vocab_size=5))


def test_a_trainer_refuses_bad_data_when_it_is_made(make_trainer):
    with pytest.raises(ValueError, match="^train_dataset is empty"):
        make_trainer(train_dataset=make_blocks().select([]))
    with pytest.raises(ValueError, match="^train_dataset has sequences of 40 tokens"):
        make_trainer(train_dataset=Dataset.from_list(rows_of(40)))
    with pytest.raises(ValueError, match="^output_dir='.*' can't be created"):
        make_trainer(output_dir=str(Path(__file__) / "below"))


# Resuming


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kl_weight", 0.5),
        ("mlm_probability", 0.15),
        ("pruning_end_fraction", 0.7),
        ("ffn_end_fraction", 0.9),
        ("pruning_interval_steps", 5),
        ("learning_rate", 1e-4),
        ("learning_rate_hold_fraction", 0.9),
        ("warmup_steps", 7),
        ("weight_decay", 0.1),
        ("adam_beta2", 0.999),
        ("max_grad_norm", 3.0),
        ("optim", "sgd"),
        ("student_dropout", None),
        ("seed", 1),
        ("data_seed", 9),
        ("max_steps", 30),
        ("num_train_epochs", 5.0),
        ("bf16", True),
        ("dataloader_drop_last", False),
        pytest.param("torch_compile", True, marks=pytest.mark.skipif(bool(compiling_problem()), reason="old torch")),
    ],
)
def test_each_setting_that_differs_is_warned_of(name, value, caplog):
    gradual = {"pruning_end_fraction": 0.3}
    now, saved = (settings_that_matter(make_args(**gradual | own)) for own in ({name: value}, {}))
    caplog.clear()  # what TrainingArguments has to say of a CPU
    warn_of_other_settings(now, json.loads(json.dumps(saved)))
    assert [record.getMessage() for record in caplog.records] == [
        f"resumed with {name}={value!r}, the checkpoint has {saved[name]!r}: the run will differ from an "
        "uninterrupted one; set it as it was to go on exactly"
    ]


def test_the_same_settings_are_resumed_without_a_word(caplog):
    for settings in ({}, {"max_steps": 30, "lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 2}}):
        args = make_args(**settings)
        warn_of_other_settings(settings_that_matter(args), json.loads(json.dumps(settings_that_matter(args))))
    by_steps = settings_that_matter(make_args(max_steps=30))
    warn_of_other_settings(by_steps, settings_that_matter(make_args(max_steps=30, num_train_epochs=9)))
    warn_of_other_settings(by_steps, {"of_another_version": 1})
    warn_of_other_settings(by_steps, settings_that_matter(make_args(max_steps=30, logging_steps=1, output_dir="b")))
    assert caplog.records == []


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        (
            "masked_lm",
            {"task_weight": 2.0},
            "task_weight=2.0 has no part in this run: masked words are its task",
        ),
        (
            "sequence_classification",
            {"mlm_weight": 0.5},
            "mlm_weight=0.5 has no part in this run: its own loss has",
        ),
        (
            "sequence_classification",
            {"mlm_probability": 0.2},
            "mlm_probability=0.2 has no part .*: no words are",
        ),
        (
            "masked_lm",
            {"mlm_probability": 0.2, "data_collator": print},
            "mlm_probability=0.2 has no part .*: the given data_collator masks words; set it there",
        ),
    ],
)
def test_settings_without_a_part_for_a_task_are_refused(make_trainer, task, settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make_trainer(model=make_teacher(task), **settings)


def test_functions_that_would_replace_the_students_are_refused(make_trainer):
    with pytest.raises(ValueError, match="^model_init=.* would replace the student, .*; leave it out, and try"):
        make_trainer(model_init=make_teacher)
    with pytest.raises(ValueError, match="^compute_loss_func=.* would replace the distillation loss; leave it"):
        make_trainer(compute_loss_func=print)


# Segments and token ids


def two_segments(**config):
    batch = make_batch("sequence_classification", num_rows=8)
    batch["token_type_ids"] = (torch.arange(batch["input_ids"].shape[1]) >= 6).long().expand(8, -1)
    rows = [{name: tensor[index].tolist() for name, tensor in batch.items()} for index in range(8)]
    return make_teacher("sequence_classification", **config), rows


def test_segments_are_dropped_where_a_model_has_one_row_of_them(make_trainer):
    """As for a RoBERTa-like model beside BERT's tokenizer, which numbers the texts of a pair."""
    model, rows = two_segments(type_vocab_size=1)
    trainer = make_trainer(model=model, train_dataset=rows, eval_dataset=rows, max_steps=2)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
    assert trainer.evaluate_teacher()


@pytest.mark.parametrize("name", ["distilbert", "mpnet", "roberta"])
def test_segments_are_dropped_where_an_architecture_has_none(make_trainer, name):
    architecture = ARCHITECTURES[name]
    (head,) = (head for head in architecture.heads if head.kind.name == "sequence_classification")
    _, rows = two_segments()
    model = tiny_architecture_teacher(architecture, head)
    trainer = make_trainer(
        model=model, train_dataset=rows, eval_dataset=rows, max_steps=2, data_collator=default_data_collator
    )
    trainer.train()


@pytest.mark.parametrize("wrong", [tiny_config().vocab_size, -1])
def test_token_ids_that_the_model_does_not_have_are_refused(wrong):
    message = f"has the token id {wrong}, but the model's vocab_size={tiny_config().vocab_size}; tokenize"
    rows = Dataset.from_dict({"input_ids": [[2, 5, 3], [2, wrong, 3]]})
    with pytest.raises(ValueError, match=f"^train_dataset {message}"):
        check_data({"train_dataset": rows}, None, tiny_config())
    with pytest.raises(ValueError, match=f"^a batch {message}"):
        checked_batch({"input_ids": torch.tensor(rows["input_ids"][:])}, tiny_config())


def test_a_token_id_in_a_row_that_nobody_looked_at_is_refused_in_words(make_trainer):
    model, rows = two_segments()
    rows[-1]["input_ids"][3] = model.config.vocab_size
    trainer = make_trainer(model=model, train_dataset=rows, eval_dataset=rows, max_steps=1)
    for run in (trainer.train, trainer.evaluate):
        with pytest.raises(ValueError, match="^a batch has the token id 96, but the model's vocab_size=96; tokenize"):
            run()


# What has rows, but gives none


def _loader(rows: Dataset) -> Any:
    return torch.utils.data.DataLoader(rows)


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda rows: DatasetDict(train=rows), r"one of its parts, such as train_dataset\['train'\]"),
        (lambda rows: {"input_ids": rows["input_ids"][:]}, r"datasets.Dataset.from_dict\(train_dataset\)"),
        (lambda rows: rows.to_pandas(), r"datasets.Dataset.from_pandas\(train_dataset\)"),
        (_loader, "its data set, train_dataset.dataset, and its collate_fn"),
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


@pytest.mark.parametrize("rows", [["a text"], [[1, 2, 3]]])
def test_a_list_without_mappings_is_refused(rows):
    with pytest.raises(ValueError, match=r"^eval_dataset\['a'\] has a row .*; expected mappings with input_ids"):
        check_data({"eval_dataset": {"a": rows}}, None, tiny_config())


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


@pytest.mark.parametrize("model", [5, {}, BertConfig(), BertConfig])
def test_what_is_no_model_is_called_what_it_is(make_trainer, model):
    with pytest.raises(
        ValueError, match=f"^model is a {type(model).__name__}; expected a folder, a name on the Hub, or"
    ):
        make_trainer(model=model)


def test_searches_are_refused(make_trainer):
    with pytest.raises(ValueError, match="^model_init=.* try settings with homodistil distill"):
        make_trainer(model_init=make_teacher)
    with pytest.raises(ValueError, match="^hyperparameter_search would make a new model .* try settings"):
        make_trainer().hyperparameter_search()


def test_a_metric_that_no_evaluation_has_is_refused(make_trainer):
    settings = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
    trainer = make_trainer(metric_for_best_model="kll", eval_steps=1, save_steps=1, max_steps=2, **settings)
    with pytest.raises(ValueError, match="^metric_for_best_model='kll' is in no evaluation; nearest valid: 'kl'"):
        trainer.train()
