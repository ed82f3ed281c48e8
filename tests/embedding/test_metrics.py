"""Similarities, agreement and scores of vectors: against sentence-transformers, scikit-learn and slow loops."""

import numpy as np
import pytest
import torch
from rows import each
from tiny_embeddings import unit_vectors
from torch.nn import functional as F

from homodistil_hf.embedding.metrics import (
    SIMILARITIES,
    agreement,
    first_hits,
    pair_score,
    pair_similarities,
    ranking_scores,
    retrieval_scores,
    similarities,
)

FIRST, SECOND = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@each("name", SIMILARITIES)
def test_similarities_are_those_of_sentence_transformers(name):
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    functions = library.SimilarityFunction
    found = similarities(FIRST, SECOND, name)
    assert torch.allclose(found, functions.to_similarity_fn(name)(FIRST, SECOND), atol=1e-6)
    pairs = pair_similarities(FIRST, SECOND, name)
    assert torch.allclose(pairs, functions.to_similarity_pairwise_fn(name)(FIRST, SECOND), atol=1e-6)
    assert torch.allclose(pairs, found.diagonal())


def test_names_are_all_that_the_library_has_for_one_vector_a_text():
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    names = library.SimilarityFunction.possible_values()
    assert [name for name in names if "maxsim" not in name] == list(SIMILARITIES)  # of several vectors a text


def nearest(values_NN, text):
    """The ten most similar texts, of all but itself."""
    values = values_NN[text].index_fill(0, torch.tensor(text), -torch.inf)
    return set(values.topk(10).indices.tolist())


def test_agreement_counts_neighbours_one_by_one():
    student, teacher = unit_vectors(400, seed=1), unit_vectors(400)  # more rows than are compared at a time
    student = F.normalize(student + 2 * teacher, dim=-1)
    found = agreement(student, teacher)

    texts = range(len(teacher))
    among_own, in_teachers, wanted = student @ student.T, student @ teacher.T, teacher @ teacher.T
    own = sum(len(nearest(among_own, i) & nearest(wanted, i)) for i in texts)
    in_index = sum(len(nearest(in_teachers, i) & nearest(wanted, i)) for i in texts)
    assert found["neighbours"] == pytest.approx(own / 4000)
    assert found["neighbours_in_index"] == pytest.approx(in_index / 4000)
    assert found["cosine"] == pytest.approx(float((student * teacher).sum(-1).mean()))
    others = ~torch.eye(400, dtype=torch.bool)
    spreads = [(vectors @ vectors.T)[others].std(unbiased=False) for vectors in (student, teacher)]
    assert found["spread"] == pytest.approx(float(spreads[0] / spreads[1]))
    collapsed = unit_vectors(1).expand(400, -1)
    assert agreement(collapsed, teacher)["spread"] == pytest.approx(0.0, abs=1e-6)
    assert agreement(student[:1], teacher[:1]) == {}


@each("vectors", [torch.eye(2, 5), torch.ones(4, 5)])
def test_similarities_that_are_all_the_same_have_no_spread(vectors):
    """Two held-out texts have one similarity: nothing has collapsed."""
    found = agreement(vectors + 0.1 * torch.randn_like(vectors), vectors)
    assert found.keys() == {"cosine", "neighbours", "neighbours_in_index"}


@each("name", SIMILARITIES)
def test_neighbours_are_nearest_by_the_models_own_similarity(name):
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(40, 4, generator=generator, dtype=torch.float64).exp()  # of very different lengths
    student = teacher + 0.3 * torch.randn(40, 4, generator=generator, dtype=torch.float64)
    found = agreement(student, teacher, similarity=name)

    values, wanted = (similarities(vectors, teacher, name) for vectors in (student, teacher))
    shared = [len(nearest(values, i) & nearest(wanted, i)) for i in range(40)]
    assert found["neighbours_in_index"] == pytest.approx(sum(shared) / 400)


def test_the_right_document_first_second_and_eleventh():
    documents = torch.eye(12)
    queries = torch.stack([documents[0], documents[0] + 0.5 * documents[1], 12.0 - torch.arange(12.0)])
    found = retrieval_scores(queries, documents, [0, 1, 10])
    assert found["mrr_at_10"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found["ndcg_at_10"] == pytest.approx((1 + 1 / torch.log2(torch.tensor(3.0)).item()) / 3)


def test_a_model_that_makes_all_texts_one_finds_nothing():
    assert retrieval_scores(torch.ones(2, 3), torch.ones(20, 3), [0, 1]) == {"ndcg_at_10": 0.0, "mrr_at_10": 0.0}


def test_pairs_are_ranked_by_their_cosine():
    first = torch.tensor([[1.0, 0.0]]).expand(4, 2)
    second = torch.tensor([[2.0, 0.0], [1.0, 0.5], [1.0, 1.0], [0.0, 1.0]])
    assert pair_score("spearman", first, second, [5.0, 4.0, 2.0, 0.0]) == pytest.approx(1.0)
    assert pair_score("spearman", first, second, [0.0, 2.0, 4.0, 5.0]) == pytest.approx(-1.0)
    assert pair_score("average_precision", first, second, [1, 0, 1, 0]) == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.filterwarnings("ignore:An input array is constant")
@pytest.mark.parametrize(("second", "labels"), [(torch.ones(3, 2), [5.0, 4.0, 0.0]), (torch.eye(3)[:, :2], [2.0] * 3)])
def test_undefined_correlations_are_0(second, labels):
    assert pair_score("spearman", torch.ones(3, 2), second, labels) == 0.0


def test_lookups_are_by_the_nearest_document():
    vectors = torch.randn(700, 6, generator=torch.Generator().manual_seed(0))
    found = first_hits(vectors[:600], vectors, "cosine")
    assert found.tolist() == list(range(600))
    distances = torch.cdist(vectors[:300].double(), vectors[300:].double())
    assert torch.equal(first_hits(vectors[:300], vectors[300:], "euclidean"), distances.argmin(1))


def test_graded_labels_are_scored_as_scikit_learn_does():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    draw = np.random.default_rng(0)
    scores, labels = draw.normal(size=(5, 14)), draw.integers(0, 4, (5, 14)).astype(float)
    found = ranking_scores(scores.ravel(), labels.ravel(), [f"q{row}" for row in range(5) for _ in range(14)])
    assert found["ndcg_at_10"] == pytest.approx(metrics.ndcg_score(labels, scores, k=10))


def test_one_right_passage_a_query_is_scored_as_a_retrieval():
    queries, documents = torch.randn(6, 8), torch.randn(20, 8)
    answers = [3, 0, 7, 7, 19, 11]
    expected = retrieval_scores(queries, documents, answers, similarity="dot")
    scores, labels = (queries @ documents.T).double().numpy(), np.zeros((6, 20))
    labels[range(6), answers] = 1
    found = ranking_scores(scores.ravel(), labels.ravel(), [f"q{row}" for row in range(6) for _ in range(20)])
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_the_order_is_that_of_each_query_and_equal_scores_are_wrong_first():
    scores, labels = np.array([0.5, 0.5, 9.0, 8.0, 1.0]), np.array([1.0, 0.0, 2.0, 1.0, 7.0])
    found = ranking_scores(scores, labels, ["a", "a", "b", "b", "alone"])
    assert found["mrr_at_10"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["ndcg_at_10"] == pytest.approx((1 / np.log2(3) + 1) / 2)
    assert ranking_scores(scores[2:], labels[2:], ["b", "c", "d"]).keys() == {"spearman"}


def test_labels_below_0_are_raised():
    scores, labels = np.array([3.0, 2.0, 1.0]), np.array([-1.0, 1.0, 0.0])
    assert ranking_scores(scores, labels, ["q"] * 3) == ranking_scores(scores, labels + 1, ["q"] * 3)
