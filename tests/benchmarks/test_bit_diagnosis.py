import json

import pytest
import torch
from tiny_models import make_teacher

from benchmarks.studies.bit_diagnosis import SITES, distances, first_table, with_float_sites
from homodistil_hf.methods.binarization.binarizing import calibrate, to_binary


@pytest.fixture(scope="module")
def teacher():
    return make_teacher("sequence_classification").eval()


def batch():
    ids = torch.randint(5, 90, (3, 9), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_with_all_sites_float_weights_alone_have_bits(teacher):
    student = with_float_sites(to_binary(teacher, activation_bits=2), list(SITES)).eval()
    wanted = to_binary(teacher, activation_bits=32).eval()
    with torch.no_grad():
        assert student(**batch()).logits.equal(wanted(**batch()).logits)
    assert distances(student, teacher, [batch()])["errors"] == {}


@pytest.mark.parametrize("site", SITES)
def test_one_site_is_turned_back_to_float(teacher, site):
    student = with_float_sites(to_binary(teacher, activation_bits=2), [site]).eval()
    calibrate(student, batch())
    found = distances(student, teacher, [batch()])
    assert set(found["errors"]) == SITES.keys() - {site}
    assert ("empty_shares" in found) == (site != "shares")
    assert len(found["cosines"]) == teacher.config.num_hidden_layers + 1


def test_a_model_has_no_distance_to_itself(teacher):
    found = distances(teacher, teacher, [batch(), batch()])
    assert found == {"cosines": [1.0] * (teacher.config.num_hidden_layers + 1), "errors": {}}


def test_the_first_table_takes_the_cell_with_most_copies():
    long = {"max_train_steps": 3000, "num_train_epochs": 100, "batch_size": 32, "stages": [2]}
    scores = [
        ({"task": "stsb", "copies": 10}, 0.8, 0.0),
        ({"task": "stsb"}, 0.5, 0.0),
        ({"task": "mrpc", "teachers_rate": 1e-4}, 0.7, 0.6),
        ({"task": "mrpc", "max_train_steps": 600}, 0.1, 0.6),
        ({"task": "sst2", "float_sites": ["shares"]}, 0.1, 0.5),
    ]
    rows = [
        {
            "cell": json.dumps(long | {"task": "stsb", "stages": [2, 1]}),
            "float": 0.8,
            "stage-1": {"score": 0.1},
            "stage-2": {"score": 0.4},
        }
    ]
    rows += [
        {"cell": json.dumps(long | cell), "float": 0.8, "constant": constant, "stage-1": {"score": score}}
        for cell, score, constant in scores
    ]
    usual = {name: value for name, value in long.items() if name != "stages"} | {"task": "sst2"}  # of the method
    rows.append({"cell": json.dumps(usual), "float": 0.8, "constant": 0.5, "stage-1": {"score": 0.8}})
    _, _, *lines = first_table(rows)
    assert lines[2] == "| W1A2 | – | 80.0 of 80.0 | 70.0 of 80.0 | – | 3,000 | 75 | 94 |"
    assert lines[3] == "| W1A1 | – | 40.0 of 80.0 | – | – | 6,000 | 50 | 50 |"
    assert lines[1] == "| W1A4 | 80.0 of 80.0 | – | – | – | 3,000 | 100 | 100 |"
    assert lines[0] == "| W1A8 | – | – | – | – | – | – | – |"
