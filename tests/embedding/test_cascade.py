"""Queries that a student is in doubt about go to the teacher, in the teacher's index."""

import math

import pytest
import torch
from tiny_embeddings import make_sentence_folder

from homodistil_hf import Cascade, load_embedding_model

DOCUMENTS = [f"w{number} w{number + 1} w{number % 7 + 5}" for number in range(10, 60)]
QUERIES = [f"w{number} w{number + 2}" for number in range(10, 50)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A student of nearly the teacher's weights, and the teacher."""
    folder = tmp_path_factory.mktemp("cascade")
    student, teacher = (load_embedding_model(make_sentence_folder(folder / name)) for name in ("student", "teacher"))
    torch.manual_seed(0)
    for parameter in student.encoder.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return student, teacher


@pytest.fixture(scope="module")
def index(models):
    return models[1].encode(DOCUMENTS)


def by_hand(model, index):
    return model.encode(QUERIES) @ index.T  # of length 1


@pytest.mark.parametrize(("margin", "side"), [(0.0, 0), (math.inf, 1)])
def test_a_cascade_without_and_with_all_queries_is_one_of_its_models(models, index, margin, side):
    found = Cascade(*models, index, margin).search(QUERIES, k=3)
    expected = by_hand(models[side], index).topk(3)
    assert torch.equal(found.rows, expected.indices)
    assert torch.allclose(found.similarities, expected.values)
    assert found.asked.tolist() == [bool(side)] * len(QUERIES)


def test_queries_of_small_margins_are_answered_by_the_teacher(models, index):
    similarities = [by_hand(model, index) for model in models]
    margins = similarities[0].topk(2).values
    margins = margins[:, 0] - margins[:, 1]
    margin = float(margins.sort().values[10:12].mean())
    found = Cascade(*models, index, margin).search(QUERIES, k=1)
    assert found.asked.tolist() == (margins < margin).tolist()
    assert int(found.asked.sum()) == 11
    expected = torch.where(found.asked, similarities[1].argmax(1), similarities[0].argmax(1))
    assert found.rows[:, 0].tolist() == expected.tolist()
    wanted = similarities[1].argmax(1)
    own = (similarities[0].argmax(1) == wanted).double().mean()
    assert own < (found.rows[:, 0] == wanted).double().mean()


def test_folders_are_loaded_and_other_spaces_refused(models, index, tmp_path):
    folder = make_sentence_folder(tmp_path / "teacher")
    cascade = Cascade(folder, str(folder), index, 0.1)
    assert cascade.search(QUERIES[:2]).rows.shape == (2, 10)
    other = load_embedding_model(make_sentence_folder(tmp_path / "other", dense=5))
    with pytest.raises(ValueError, match="and vectors have the lengths .*'student': 5"):
        Cascade(other, models[1], index)
    with pytest.raises(ValueError, match="documents has 1 rows; a margin is between two of them"):
        Cascade(*models, index[:1])
