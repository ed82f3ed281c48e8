from pathlib import Path

import numpy as np
import pytest

from benchmarks.results.shape_law import errors, fitted, read_runs
from homodistil_hf.plans.shape_law import SHAPE_LAW


def test_the_planner_has_the_law_that_the_records_say():
    runs = read_runs(Path("docs/results"))
    law, logs = fitted(runs)
    assert [*law[1:], (law.least, 1.0)] == [
        pytest.approx(term, rel=0.02) for term in (*SHAPE_LAW[1:], (SHAPE_LAW.least, 1.0))
    ]
    assert np.sqrt(np.mean(errors(logs, runs) ** 2)) < 0.04


def test_what_the_law_says_by_hand():
    layers, hidden = SHAPE_LAW.layers, SHAPE_LAW.hidden_size
    whole = {"layers": 1.0, "hidden_size": 1.0, "num_heads": 1.0, "head_dim": 1.0, "ffn_size": 1.0}
    assert SHAPE_LAW(**whole) == SHAPE_LAW.least
    expected = SHAPE_LAW.least + layers.weight * (2**layers.power - 1) + hidden.weight * (4**hidden.power - 1)
    assert SHAPE_LAW(**whole | {"layers": 0.5, "hidden_size": 0.25}) == pytest.approx(expected)
