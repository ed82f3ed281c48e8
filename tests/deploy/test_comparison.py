"""Figures of comparisons, worked out by hand."""

import math

import pytest
import torch

from homodistil_hf.deploy.deployable import compare_answers, some_positions
from homodistil_hf.deploy.folder import Workshop
from homodistil_hf.deploy.runtimes import RuntimeProblem
from homodistil_hf.embedding.deployable import compare_vectors


def rows(*logits, name="logits"):
    return [{name: torch.tensor(one)} for one in logits]


def test_first_answers_are_counted_over_all_tokens():
    expected, found = rows([[0.0, 4.0], [3.0, 1.0]], [[1.0, 0.0]]), rows([[0.0, 4.0], [1.0, 3.0]], [[1.0, 0.0]])
    figures = compare_answers(expected, found, "first")
    assert figures["fidelity"] == pytest.approx(2 / 3)
    assert figures["largest_difference"] == pytest.approx(2 / 4)
    assert figures["distance"] == pytest.approx(math.sqrt(8) / math.sqrt(16 + 9 + 1 + 1))


def test_rules_of_labels_and_of_order():
    # an answer is all labels of a text
    some = rows([1.0, -1.0, -1.0], [-1.0, -1.0, -1.0])
    assert compare_answers(some, rows([2.0, 1.0, -3.0], [-1.0, -2.0, -3.0]), "each")["fidelity"] == 0.5
    assert compare_answers(rows([1.0], [2.0], [3.0]), rows([1.0], [5.0], [4.0]), "order")["fidelity"] == pytest.approx(
        2 / 3
    )
    # several values a text: by each, although the largest stays the largest
    several = rows([9.0, 1.0], [9.5, 2.0]), rows([9.0, 4.0], [9.5, 3.0])
    assert compare_answers(*several, "order")["fidelity"] == 0.5


def test_rows_without_tokens_change_nothing():
    empty = torch.zeros(0, 2)
    expected = [{"logits": empty}, *rows([[0.0, 1.0]])]
    assert compare_answers(expected, expected, "first")["fidelity"] == 1


def test_vectors_are_as_good_as_their_worst_form():
    expected = [{"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0, 0.0])}] * 2
    found = [{"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0, 1.0])}] * 2
    figures = compare_vectors(expected, found)
    assert figures["fidelity"] == pytest.approx(math.sqrt(0.5))
    assert compare_vectors(expected, [{"a": row["a"]} for row in found])["fidelity"] == 1


def test_neighbours_are_the_nearest_three_others():
    points = [{"v": torch.tensor([math.cos(angle), math.sin(angle)])} for angle in (0.0, 0.1, 0.2, 0.3, 1.0, 1.1)]
    assert compare_vectors(points, points)["neighbours"] == 1
    turned = [{"v": row["v"]} for row in (*points[:5], {"v": -points[5]["v"]})]
    assert 0 < compare_vectors(points, turned)["neighbours"] < 1


def test_positions_of_a_vocabulary_are_few_and_reach_both_ends():
    assert some_positions(8, 30522) == list(range(8))
    assert some_positions(100, 30522)[0::7] == [0, 99]
    assert some_positions(100, 9) == list(range(100))


def test_a_comparison_takes_two_texts(tmp_path):
    made = Workshop(None, tmp_path / "made", [("a", None), ("b", None), ("c", None)])
    with pytest.raises(RuntimeProblem, match="1 of 3 texts fit in whole; expected at least 2 to compare"):
        made.compare(None, only=lambda row: row[0] == "b")
