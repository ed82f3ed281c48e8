"""What a run computes, by hand: at which widths which steps were trained, in records of both kinds."""

import json
import math

import pytest
from sweep_records import record
from tiny_files import own_cache, write_config

from benchmarks.results.computation import run_macs
from homodistil_hf import HomoDistilTrainer
from homodistil_hf.experiments.sweep.cells import Cell
from homodistil_hf.experiments.sweep.training import train_cell
from homodistil_hf.models.cost import encoder_macs

NARROW, WHOLE = (dict.fromkeys(("hidden", "attention", "ffn"), fraction) for fraction in (0.5, 1.0))
MIDDLE = NARROW | {"ffn": 1.0}

# A layer of 192 hidden channels, 8 heads of 24 and 704 FFN neurons; 128 tokens are attended to.
LAYER = 4 * 192 * 192 + 2 * 192 * 704 + 2 * 128 * 192
DOUBLED = 4 * 384 * 384 + 2 * 384 * 1408 + 2 * 128 * 384
WIDE_FFN = 4 * 192 * 192 + 2 * 192 * 1408 + 2 * 128 * 192
TEACHER, STUDENT = 1000, 250


def run(method, *rows, num_steps=40, **settings):
    """Widths and the last step that they were logged at."""
    kept = [widths | {"step": step} for widths, step in rows]
    return record(method, 0.5, num_steps=num_steps, logging_steps=10, **settings) | {"kept_fractions": kept}


def macs(*steps):
    """Of steps and the layer that they were trained with."""
    return sum(number * (TEACHER + 3 * STUDENT * layer / LAYER) for number, layer in steps)


def test_a_row_says_the_widths_that_its_last_step_was_trained_at():
    slow = run("homodistil", (WHOLE, 10), (MIDDLE, 20), (NARROW, 40))
    assert run_macs(slow) == pytest.approx(macs((10, DOUBLED), (10, WIDE_FFN), (20, LAYER)))


def test_rows_of_masks_chosen_after_a_step_count_until_the_next():
    """Such a student was whole until step 10, where its first row was logged."""
    slow = run("homodistil", (MIDDLE, 10), (NARROW, 40))
    whole = 10 * (TEACHER + 3 * TEACHER)  # exactly the teacher
    assert run_macs(slow) == pytest.approx(whole + macs((10, WIDE_FFN), (20, LAYER)))


def test_widths_that_stayed_for_some_rows_count_for_all_of_them():
    slow = run("homodistil", (MIDDLE, 30), (NARROW, 40))
    assert run_macs(slow) == pytest.approx(10 * 4 * TEACHER + macs((30, WIDE_FFN)))


def test_a_student_cut_before_training_has_its_plan_from_the_first_step():
    """One-shot's 16 batches of scores are forward and backward passes of the teacher."""
    assert run_macs(run("one_shot", (NARROW, 40))) == pytest.approx(macs((40, LAYER)) + 16 * 4 * TEACHER)
    assert run_macs(run("pruned_first", (NARROW, 30))) == pytest.approx(macs((40, LAYER)))


def test_scores_before_the_first_step_count():
    slow = run("homodistil", (WHOLE, 10), (NARROW, 40), num_scoring_batches=4)
    assert run_macs(slow) == pytest.approx(macs((10, DOUBLED), (30, LAYER)) + 4 * 4 * TEACHER)


def test_what_logs_no_widths_is_not_known():
    assert math.isnan(run_macs(run("homodistil")))
    assert math.isnan(run_macs(run("tinybert", (NARROW, 40))))


@pytest.mark.slow
def test_a_recorded_run_computes_what_its_steps_did(monkeypatch, tmp_path):
    own_cache(monkeypatch, tmp_path / "cache")
    steps = {}
    compute_loss = HomoDistilTrainer.compute_loss

    def seen(trainer, *args, **kwargs):
        if trainer.model.training:
            steps[trainer.state.global_step] = encoder_macs(trainer.kept)
        return compute_loss(trainer, *args, **kwargs)

    monkeypatch.setattr(HomoDistilTrainer, "compute_loss", seen)
    given = {"logging_steps": 2, "pruning_end_fraction": 0.8, "width_multiple": 1, "num_scoring_batches": 1}
    settings = json.loads(write_config(tmp_path, **given).read_text())
    settings.pop("output_dir")
    done = train_cell(Cell("mine", {}, "homodistil", settings), tmp_path / "run", lambda line: None)
    assert len(set(steps.values())) > 3
    teacher = done["models"]["teacher"]["encoder_macs"]
    assert run_macs(done) == pytest.approx(4 * teacher + sum(teacher + 3 * macs for macs in steps.values()))
