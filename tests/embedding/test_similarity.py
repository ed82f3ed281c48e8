"""Similarities of vectors: those of sentence-transformers, as a model's settings name them."""

import pytest
import torch
from rows import each

from homodistil_hf.embedding.metrics import SIMILARITIES, pair_similarities, similarities

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
