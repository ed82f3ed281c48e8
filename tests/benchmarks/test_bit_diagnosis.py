import pytest
import torch
from tiny_models import make_teacher

from benchmarks.studies.bit_diagnosis import SITES, distances, with_float_sites
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
