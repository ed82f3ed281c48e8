"""The study on images, with tiny models: a row of each arm, and rates that are chosen once."""

import io
import json
import sys

import numpy as np
from datasets import Dataset
from PIL import Image

from benchmarks.further_pretraining import images


def png(values_YXC: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values_YXC).save(file, format="PNG")
    return file.getvalue()


def write_images(folder, num_rows):
    """Images of ten classes; those of a class have its colour."""
    draw = np.random.default_rng(0)
    labels = [index % 10 for index in range(num_rows)]
    noise = [draw.integers(0, 25, (32, 32, 3), dtype=np.uint8) + np.uint8(23 * label) for label in labels]
    rows = {"image": [{"bytes": png(values)} for values in noise], "label": labels}
    Dataset.from_dict(rows).to_parquet(folder)


def test_a_study_has_a_row_of_each_arm_and_goes_on(tmp_path, monkeypatch):
    folder = tmp_path / "images" / images.TASK
    folder.mkdir(parents=True)
    for split, num_rows in (("train", 80), ("test", 40)):
        write_images(folder / f"{split}.parquet", num_rows)
    tiny = {"patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    monkeypatch.setattr(images, "SHAPE", images.SHAPE | tiny | {"intermediate_size": 32})
    monkeypatch.setattr(images, "NUM_HELD_OUT", 10)
    monkeypatch.setattr(images, "BATCH_SIZE", 8)
    record = tmp_path / "rows.jsonl"
    words = ["--data", tmp_path, "--source_steps", 2, "--num_steps", 2, "--fine_tuning_steps", 3]
    words += ["--record", record, "--output_dir", tmp_path / "runs"]
    for seeds in ([0], [0, 1]):
        monkeypatch.setattr(sys, "argv", ["study", *map(str, [*words, "--seeds", *seeds])])
        images.main()
    found = [json.loads(line) for line in record.read_text().splitlines()]
    arms = ["initial", "further", "self_distilled"]
    assert [(row["seed"], row["arm"]) for row in found] == [(seed, arm) for seed in (0, 1) for arm in arms]
    assert [row["distance"] > 0 for row in found] == [False, True, True] * 2
    assert [row["learning_rate"] for row in found[:3]] == [row["learning_rate"] for row in found[3:]]
    assert all(0 <= row["test"] <= 1 for row in found)
    train = images.pixels(tmp_path, "train", is_target=True)
    assert (len(train), sorted(set(train["labels"]))) == (40, [0, 1, 2, 3, 4])
    assert -1 <= float(np.min(train[0]["pixel_values"])) < float(np.max(train[0]["pixel_values"])) <= 1
