"""A trainer of any method of masked words on the tiny teacher."""

from typing import Any

import pytest
from method_students import student_of

from homodistil_hf import HomoDistilTrainer
from homodistil_hf.runs.kinds import trainer_named


@pytest.fixture
def trainer_of(make_trainer) -> Any:
    """A trainer of a method on the tiny teacher, with as many heads as it."""

    def make(method: str, **settings: Any) -> HomoDistilTrainer:
        defaults = {"student": student_of(method), "max_steps": 6}
        return make_trainer(trainer_class=trainer_named(method), **defaults | settings)

    return make
