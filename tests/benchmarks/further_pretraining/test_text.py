import json
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.metrics import f1_score
from tiny_files import own_cache, write_teacher

from benchmarks.further_pretraining import text as study
from benchmarks.further_pretraining.study import distance
from homodistil_hf.methods.self_distillation.rounds import load_initial


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_f1_is_the_customary_one(average):
    draw = np.random.default_rng(0)
    given, wanted = draw.integers(0, 5, 60), draw.integers(1, 6, 60)
    expected = f1_score(wanted, given, average=average)
    assert study.f1(given, wanted, average=average) == pytest.approx(expected)


def test_the_distance_is_the_norm_of_all_changes(tmp_path):
    first = str(write_teacher(tmp_path / "first"))
    model = load_initial(first)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    model.save_pretrained(tmp_path / "second")
    expected = 0.5 * sum(parameter.numel() for parameter in model.parameters()) ** 0.5
    assert distance(first, str(tmp_path / "second")) == pytest.approx(expected, rel=1e-5)
    assert distance(first, first) == 0


def test_a_study_has_a_row_of_each_arm_and_goes_on(tmp_path, monkeypatch, capsys):
    own_cache(monkeypatch, tmp_path / "cache")
    write_teacher(tmp_path / "teacher")
    (tmp_path / "domain" / "acl_arc").mkdir(parents=True)
    rows = {"text": [f"w{5 + i % 40} w{6 + i % 50} w9 " * 8 for i in range(96)], "label": [i % 3 for i in range(96)]}
    for split in ("train", "validation", "test"):
        Dataset.from_dict(rows).to_parquet(tmp_path / "domain" / "acl_arc" / f"{split}.parquet")
    (tmp_path / "corpora" / "wikipedia").mkdir(parents=True)
    Dataset.from_dict(rows).to_parquet(tmp_path / "corpora" / "wikipedia" / "validation.parquet")
    monkeypatch.setattr(study, "ROW_LENGTH", 16)
    record = tmp_path / "rows.jsonl"
    words = ["--data", tmp_path, "--tasks", "acl_arc", "--num_steps", 2, "--fine_tuning_steps", 2]
    words += ["--record", record, "--output_dir", tmp_path / "runs"]
    of_students = ["--student", "macs=0.5", "--distilling_steps", 2]
    for given in ([0], [0, 1], [0, *of_students]):
        monkeypatch.setattr(sys, "argv", ["study", *map(str, [*words, "--seeds", *given])])
        study.main()
    found = [json.loads(line) for line in record.read_text().splitlines()]
    arms = ["initial", "further", "self_distilled"]
    assert [(row["seed"], row["arm"]) for row in found] == [(seed, arm) for seed in (0, 1, 0) for arm in arms]
    assert [row["student"] for row in found] == [None] * 6 + ["macs=0.5"] * 3
    assert [row["distance"] > 0 for row in found] == [False, True, True] * 3
    assert all(0 <= row["test"] <= 1 for row in found)
    assert capsys.readouterr().out.count("distance") == 9
