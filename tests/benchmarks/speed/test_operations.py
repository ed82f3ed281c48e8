"""What one optimizer step asks of a device: counted on a CPU, held below ceilings."""

import json

import pytest
import torch
from torch import nn

from benchmarks.speed.operations import RESULTS, Operations, count_step, format_counts, settings_of_counts, variants

CEILINGS = {
    "before and in the window": 1_047,
    "plan reached": 1_000,
    "one_shot": 1_000,
    "strong loop": 1_337,
    "plain loop": 3_987,
    "Trainer, no teacher": 937,
}
"""Launches of a step; lower them with whatever lowers the count."""


def test_launches_are_counted_and_views_are_not():
    layer, states = nn.Linear(4, 3), torch.ones(2, 4)
    operations = Operations()
    with operations, operations.within("student"):
        loss = layer(states).view(-1).sum()
    with operations, operations.within("backward"):
        loss.backward()
    facts = operations.as_facts()
    assert facts["launches"]["student"] == 2  # a product with a bias, and a sum
    assert facts["launches"]["backward"] >= 2  # the gradients of weight and bias
    assert facts["views"] > 0
    assert (facts["waits"], facts["casts"]) == (0, 0)
    with operations, operations.within("losses"):
        float(torch.ones(2).bfloat16().sum())
    facts = operations.as_facts()
    assert (facts["waits"], facts["casts"]) == (1, 1)


def test_in_inference_mode_an_operation_is_counted_by_its_parts():
    layer, states = nn.Linear(4, 3), torch.ones(2, 4)
    operations = Operations()
    with operations, torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        nn.functional.dropout(layer(states), training=False)
    assert sum(operations.launches.values()) == 4  # casts of states, weight and bias, and their product
    assert operations.casts == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", CEILINGS)
def test_a_step_asks_for_no_more_than_it_did(name):
    record = json.loads(RESULTS.read_text(encoding="utf-8"))
    if torch.__version__.partition("+")[0] != record["torch"]:
        pytest.skip(f"counted with torch {record['torch']}: others ask for other operations")
    settings = settings_of_counts()
    counted = count_step(variants(settings)[name], settings).as_facts()
    launches = sum(counted["launches"].values())
    assert launches <= CEILINGS[name], format_counts({name: counted})
    assert counted["waits"] <= (2 if "loop" in name or "Trainer" in name else 1)
    assert launches <= sum(record["counts"][name]["launches"].values())


def test_after_the_plan_a_step_is_one_of_one_shot():
    counts = json.loads(RESULTS.read_text(encoding="utf-8"))["counts"]
    assert counts["plan reached"] == counts["one_shot"]
