"""The learning rate of each step: derived from its tokens, held while pruning lasts, or of a scheduler of Trainer."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from rows import each
from run_traces import logs_of
from tiny_models import make_blocks
from torch import nn
from transformers import get_scheduler

from homodistil_hf.training.learning_rate import default_learning_rate

pytestmark = pytest.mark.slow


@each(
    ("tokens_per_step", "hidden_size", "rate"),
    [
        (2048, 384, 2.2e-3),  # what was measured best
        (8192, 384, 4.4e-3),
        (2048, 768, 1.1e-3),
        (2048, 128, 6.6e-3),
        (2048, 32, 6.6e-3),  # narrower teachers were not measured
    ],
)
def test_rates_rise_with_the_batch_and_fall_with_the_width(tokens_per_step, hidden_size, rate):
    assert default_learning_rate(tokens_per_step, hidden_size) == pytest.approx(rate)


@each(
    ("settings", "rate"),
    [
        ({"per_device_train_batch_size": 8}, 1.6e-3),  # 8 rows of 16 tokens, a 16th of 2,048; 32 channels
        ({"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}, 3.3e-3),
        ({"per_device_train_batch_size": 8, "train_dataset": None}, 4.7e-3),  # as if rows had 128
        ({"learning_rate": 3e-4}, 3e-4),
    ],
)
def test_the_learning_rate_follows_from_the_tokens_of_a_step(make_trainer, settings, rate, caplog):
    with caplog.at_level("INFO", logger="homodistil_hf"):
        assert make_trainer(**settings).args.learning_rate == rate
    reason = "as none is given: the measured rule for 128 tokens a step and a teacher of 32 channels"
    assert (f"learning_rate=0.0016, {reason}" in caplog.text) == (rate == 1.6e-3)


def test_the_rate_of_rows_of_all_lengths_does_not_depend_on_the_first(make_trainer):
    ids = make_blocks(16)["input_ids"]
    rates = []
    for short in (0, 15):
        rows = Dataset.from_dict({"input_ids": [row[:3] if place == short else row for place, row in enumerate(ids)]})
        rates.append(make_trainer(train_dataset=rows).args.learning_rate)
    assert rates[0] == rates[1]

    class Rows(torch.utils.data.Dataset):  # it ends by no IndexError
        by_place = dict(enumerate(rows))

        def __len__(self):
            return len(self.by_place)

        def __getitem__(self, index):
            return self.by_place[index]

    assert make_trainer(train_dataset=Rows()).args.learning_rate == rates[1]


@pytest.mark.parametrize(("settings", "num_opened"), [({}, 1), ({"learning_rate": 1e-3}, 0)])
def test_a_stream_is_looked_into_for_the_learning_rate_only(make_trainer, settings, num_opened):
    opened = []

    def rows() -> Iterator[dict[str, Any]]:
        opened.append(True)
        yield from make_blocks()

    make_trainer(train_dataset=IterableDataset.from_generator(rows), **settings)
    assert len(opened) == num_opened


@each(
    ("settings", "expected"),
    [
        ({"pruning_end_fraction": 0.6}, [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]),
        # It stays up for half of the run, or for longer than pruning lasts.
        ({"pruning_end_fraction": 0.2}, [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]),
    ],
)
def test_the_learning_rate_follows_pruning_by_default(trained, settings, expected):
    trainer = trained(max_steps=10, warmup_steps=2, learning_rate=1.0, **settings)
    assert rates_of(trainer) == pytest.approx(expected)


def rates_of(trainer):
    return [entry["learning_rate"] for entry in logs_of(trainer) if "loss_kl" in entry]


@pytest.mark.parametrize("name", ["cosine", "linear", "constant_with_warmup"])
def test_schedulers_of_trainer(trained, name):
    trainer = trained(
        max_steps=6, warmup_steps=2, lr_scheduler_type=name, learning_rate_curve="trainer", learning_rate=0.01
    )
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=2, num_training_steps=6)
    expected = []
    for _ in range(6):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates_of(trainer) == pytest.approx(expected)
