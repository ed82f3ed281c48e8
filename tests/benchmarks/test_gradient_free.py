"""The opponent with labels beside a slow loop, and all three runs on tiny models."""

import pytest
import torch
from students import make_batch
from tiny_files import write_teacher
from tiny_glue import write_task
from tiny_models import make_teacher, tiny_config

from benchmarks import gradient_free
from benchmarks.gradient_free import (
    ARMS,
    FISHER,
    FOREIGN,
    PAGE,
    RECOVERED_ARMS,
    RESULTS,
    Task,
    fisher_scores,
    kernel_table,
    main,
    quality_table,
    second_matrices,
    speed_table,
    teacher_row,
    timed,
)
from benchmarks.marked_pages import filled
from homodistil_hf.evaluation.fine_tuning import GlueSettings
from homodistil_hf.evaluation.squad.windows import SquadSettings
from homodistil_hf.files.strict_json import read_json, read_json_object


@pytest.mark.parametrize("task", ["sequence_classification", "question_answering"])
def test_fisher_scores_are_those_of_one_sample_after_the_other(task):
    model, batch = make_teacher(task), make_batch(task)
    found = fisher_scores(make_teacher(task), [batch])
    expected = {name: torch.zeros(64) for name in found}
    for index in range(4):
        masks = {name: torch.ones(64, requires_grad=True) for name in found}
        for name, linear in second_matrices(model).items():
            linear.register_forward_pre_hook(lambda _, inputs, mask=masks[name]: (inputs[0] * mask,))
        model(**{name: rows[index : index + 1] for name, rows in batch.items()}).loss.backward()
        for name, mask in masks.items():
            expected[name] += mask.grad.square()
        for linear in second_matrices(model).values():
            linear._forward_pre_hooks.clear()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-3, atol=1e-9)


@pytest.mark.slow
def test_quality_is_measured_row_by_row_and_goes_on(tmp_path, monkeypatch):
    write_teacher(tmp_path / "model", intermediate_size=256, max_position_embeddings=128)
    for task in ("sst2", "mrpc", "stsb"):
        write_task(tmp_path, task)
    monkeypatch.setattr(gradient_free, "RECORD", output := tmp_path / "gradient_free_quality.json")
    monkeypatch.setattr(gradient_free, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(gradient_free, "RECOVERY", GlueSettings(learning_rate=1e-4, max_train_steps=2))
    (tmp_path / "page.md").write_text("<!-- quality -->\n<!-- /quality -->\n")
    words = ["quality", "--model", str(tmp_path / "model"), "--data_dir", str(tmp_path)]
    words += ["--work_dir", str(tmp_path / "work"), "--num_samples", "16", "--max_train_steps", "2", "--macs", "0.7"]
    main([*words, "--tasks", "sst2", "mrpc", "--seeds", "0", "--arms", *ARMS, *RECOVERED_ARMS])
    rows = read_json_object(output, "rows")["rows"]
    assert len(rows) == 2 * (1 + len(ARMS + RECOVERED_ARMS))
    marked = "sst2, 0.7, R2D2, seed 0"
    text = output.read_text().replace(f'"{marked}": {{', f'"{marked}": {{"was_here": true,')
    output.write_text(text)
    main([*words, "--tasks", "sst2", "stsb", "--seeds", "0", "--arms", "R2D2", "D2"])
    after = read_json_object(output, "rows")["rows"]
    assert after[marked]["was_here"]
    assert len(after) == len(rows) + 3
    assert any(FOREIGN in name for name in after)
    assert (tmp_path / "page.md").read_text().count("| 70% |") == len(ARMS + RECOVERED_ARMS)


@pytest.mark.parametrize("score", [0.5, 0.6])
def test_a_teacher_that_has_learned_nothing_is_told_of(score, capsys):
    task = Task(None, 600, 0.5, lambda model: score, None)
    row = teacher_row("qnli", task, None, SquadSettings(learning_rate=2e-4))
    assert ("no better than one answer" in capsys.readouterr().out) is (score == 0.5)
    assert (row["score"], row["constant_score"], row["fine_tuning"]["learning_rate"]) == (score, 0.5, 2e-4)


def test_time_and_memory_of_a_tiny_model():
    for arm in ("R2D2 + rescaling", FISHER):
        found = timed(arm, tiny_config(intermediate_size=256), num_samples=8, length=16)
        assert found["time_s"] >= 0
        assert found["peak_above_model_mb"] >= 0


def test_scores_are_told_of_every_task_and_kept_on_average():
    def row(arm, task, score, macs=0.6):
        return {"task": task, "macs": macs, "arm": arm, "score": score}

    rows = {
        **{task: {"task": task, "macs": 1.0, "score": score} for task, score in (("sst2", 0.8), ("mrpc", 0.5))},
        **{str(seed): row("random", "sst2", score) for seed, score in enumerate((0.38, 0.42))},
        "b": row("random", "mrpc", 0.5),
        "c": row("D2", "mrpc", 0.4),
    }
    assert quality_table(rows).splitlines()[2:] == [
        "| 100% | fine-tuned | 80.0 | 50.0 | 100.0% |",
        "| 60% | random | 40.0 ± 2.8 (2) | 50.0 | 75.0% |",
        "| 60% | D2 | – | 40.0 | – |",
    ]


def test_the_page_has_the_tables_of_the_records():
    kernel = kernel_table(read_json(RESULTS / "gradient_free_kernel.json", "kernel"))
    quality = quality_table(read_json(RESULTS / "gradient_free_quality.json", "quality")["rows"])
    page = PAGE.read_text(encoding="utf-8")
    assert filled(filled(page, "kernel", kernel), "quality", quality) == page
    assert filled(page, "speed", speed_table(read_json_object(RESULTS / "gradient_free_speed.json", "speed"))) == page
