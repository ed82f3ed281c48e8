"""A sweep's file becomes cells: axes multiply, mistakes are named, and everything is checked before it is trained."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_files import write_teacher

from benchmarks.sweep.cells import Cell, read_sweep
from benchmarks.sweep.training import check_cells, run_settings, setting_names

SWEEPS = sorted((Path(__file__).parents[3] / "examples" / "sweeps").rglob("*.json"))
SETTING_NAMES = setting_names() - {"method"}
ONE_ARM = {"mine": {"method": "homodistil"}}


@pytest.fixture
def read(tmp_path) -> Any:
    def read(**content: Any) -> Any:
        path = tmp_path / "mine.json"
        path.write_text(json.dumps({"cells": ONE_ARM} | content), encoding="utf-8")
        return read_sweep(path, SETTING_NAMES)

    return read


def test_axes_multiply_and_variants_take_turns(read):
    variants = {"a": {"method": "homodistil"}, "b": {"method": "one_shot", "grid": {"seed": [7]}}}
    sweep = read(cells=variants, grid={"learning_rate": [1e-3, 1e-4], "seed": [0, 1]}, base={"max_steps": 5})
    assert [cell.name for cell in sweep.cells] == [
        "a,learning_rate=0.001,seed=0",
        "b,learning_rate=0.001,seed=7",
        "a,learning_rate=0.001,seed=1",
        "b,learning_rate=0.0001,seed=7",
        "a,learning_rate=0.0001,seed=0",
        "a,learning_rate=0.0001,seed=1",
    ]
    assert sweep.cells[1] == Cell(
        "b",
        {"learning_rate": 1e-3, "seed": 7},
        "one_shot",
        {"max_steps": 5, "learning_rate": 1e-3, "seed": 7},
    )
    assert sweep.name == "mine"
    assert sweep.output_dir == "runs/mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"bases": {}}, "unknown key 'bases' .*nearest valid: 'base'"),
        ({"cells": {}}, "has no cells"),
        ({"cells": {"a/b": {"method": "homodistil"}}}, "'a/b'.* can't be a folder here"),
        ({"cells": {"results": {"method": "homodistil"}}}, "'results'.* can't be a folder here"),
        ({"cells": {"a": "homodistil"}}, "'homodistil' is no object"),
        ({"cells": {"a": {"method": None}}}, "has method=None; expected the name of a method"),
        ({"base": {"learnin_rate": 1}}, "base has the unknown key 'learnin_rate' .*nearest valid: 'learning_rate'"),
        ({"base": {"method": "one_shot"}}, "base has the unknown key 'method'"),
        ({"base": {"output_dir": "x"}}, "output_dir='x', which the sweep gives to each cell"),
        ({"base": {"hub_token": "hf_x"}}, "base has hub_token, a secret that records would hold; set HF_TOKEN"),
        ({"cells": {"a": {"method": "homodistil", "sed": 1}}}, "unknown key 'sed' .*nearest valid: 'seed'"),
        (
            {"cells": {"a": {"method": "homodistil", "method_settings": {}}}},
            "has the unknown key 'method_settings' .value {}.; nearest valid: 'method'",
        ),
        ({"grid": {"seed": 3}}, r"grid\['seed'\]=3 has no values; expected a list"),
        ({"grid": {"seeds": [0, 1]}}, "is no setting, and its value 0 is no object.*nearest valid: 'seed'"),
        ({"grid": {"budget": [{"max_step": 3}]}}, "unknown key 'max_step' .*nearest valid: 'max_steps'"),
        (
            {"cells": {"a": {"method": "homodistil", "seed": 1}}, "grid": {"seed": [0]}},
            "has seed=1, which the axis 'seed' sets; drop one",
        ),
        (
            {"cells": {"a": {"method": "homodistil", "max_steps": 1}}, "grid": {"budget": [{"max_steps": 2}]}},
            "has max_steps=1, which the axis 'budget' sets",
        ),
        ({"grid": {"seed": [0, 0]}}, "two cells of the name 'mine,seed=0'"),
        ({"grid": {"seed": [0]}, "choose": {"axis": "sed"}}, r"axis='sed'; expected one of the grid's: \['seed'\]"),
        ({"grid": {"seed": [0]}, "choose": {"axis": "seed", "metric": "bleu"}}, "metric='bleu'; expected one of kl"),
        (
            {"grid": {"seed": [0]}, "choose": {"axis": "seed", "within": ["max_step"]}},
            "within='max_step'.*nearest valid: 'max_steps'",
        ),
    ],
)
def test_mistakes_in_a_file_are_named(read, content, message):
    with pytest.raises(ValueError, match=message):
        read(**content)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    return str(write_teacher(tmp_path_factory.mktemp("teacher") / "tiny"))


def checked(teacher: str, method: str = "homodistil", **settings: Any) -> dict[str, str]:
    values = {"teacher": teacher, "student": "macs=0.25", "train_data": "absent.txt", "max_seq_length": 16}
    cell = Cell("mine", {}, method, values | {"max_steps": 4, "use_cpu": True} | settings)
    return check_cells([cell])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "homodistill"}, "cell 'mine': method='homodistill' is unknown; nearest valid: 'homodistil'"),
        ({"num_layers": 1}, "cell 'mine' has the unknown key 'num_layers' .value 1.; nearest valid: "),
        ({"method": "embedding"}, "cell 'mine' has method='embedding', whose students can't be compared"),
        ({"student": ["macs=0.5", "macs=0.25"]}, "cell 'mine' has the list student=.*; name one student"),
        ({"learning_rate": "high"}, "cell 'mine' has learning_rate='high'; expected a number"),
        ({"pruning_end_fraction": 1.5}, "cell 'mine': pruning_end_fraction=1.5"),
        ({"student": "macs=2"}, "cell 'mine': .*macs"),
        ({"max_seq_length": 64}, "cell 'mine': max_seq_length=64 is over the teacher's"),
    ],
)
def test_a_cell_that_cannot_work_is_named(teacher, change, message):
    with pytest.raises(ValueError, match=message):
        checked(teacher, **change)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_example_is_valid(path):
    sweep = read_sweep(path, SETTING_NAMES)
    assert sweep.output_dir.startswith("runs/sweeps/")
    assert sweep.description
    for cell in {cell.variant: cell for cell in sweep.cells if cell.method != "teacher"}.values():
        settings = run_settings(cell, "runs/checked", bf16=False, use_cpu=True)
        assert settings.training.student is not None
        assert settings.training.report_to == []


def test_the_documented_file_is_valid(tmp_path):
    page = (Path(__file__).parents[3] / "benchmarks" / "sweep" / "README.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```json\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "mine.json").write_text(text, encoding="utf-8")
    sweep = read_sweep(tmp_path / "mine.json", SETTING_NAMES)
    assert len(sweep.cells) == 1 + 2 * 12 + 4
    assert "`one_shot,max_steps=300,learning_rate=0.0008,seed=0`" in page
    assert "one_shot,max_steps=300,learning_rate=0.0008,seed=0" in {cell.name for cell in sweep.cells}
