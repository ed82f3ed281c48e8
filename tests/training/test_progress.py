"""Lines of progress: short by default, all numbers with `verbose`, none where the progress was removed."""

import re

import pytest
from rows import each

from homodistil_hf.training.progress import ShortProgress, in_minutes, log_words

pytestmark = pytest.mark.slow


@each(
    ("logs", "words"),
    [
        ({"loss": 42.91, "loss_kl": 1.466, "loss_mlm": 5.2, "learning_rate": 1e-3}, ["loss 42.9", "KL 1.47"]),
        ({"loss": 1.0, "num_bad_steps": 2}, ["loss 1", "2 steps skipped"]),
        ({"eval_kl": 0.41, "eval_mlm_loss": 2.0, "eval_loss": 2.0}, ["held out: KL 0.41"]),
        (
            {"eval_kl": 0.41, "eval_task_accuracy": 0.84, "eval_f1": 0.8, "eval_runtime": 3.0},
            ["held out: KL 0.41", "accuracy 84.0 %", "f1 80.0 %"],
        ),
        (
            {"eval_cosine": 0.9, "eval_neighbours": 0.8, "eval_macs=0.25_cosine": 0.8, "eval_macs=0.1_cosine": 0.7},
            ["held out: cosine 90.0 %", "macs=0.25 cosine 80.0 %", "macs=0.1 cosine 70.0 %"],
        ),
        ({"eval_kept_fraction_ffn": 0.5, "epoch": 1.0}, []),
        ({"train_runtime": 250.0, "train_loss": 3.0}, ["trained for 4 min"]),
    ],
)
def test_words_of_a_log(logs, words):
    assert list(log_words(logs)) == words


@each(("seconds", "words"), [(0.2, "0 s"), (89.4, "89 s"), (90, "2 min"), (3599, "1 h 0 min"), (7380, "2 h 3 min")])
def test_times_in_words(seconds, words):
    assert in_minutes(seconds) == words


def test_a_run_in_a_script_tells_rate_progress_and_what_was_won(trained, tmp_path, capsys):
    trainer = trained(max_steps=4, logging_steps=2, eval_strategy="steps", eval_steps=4, learning_rate=1e-3)
    trainer.evaluate_teacher()
    capsys.readouterr()
    trainer.export(tmp_path / "small")
    (line,) = capsys.readouterr().out.splitlines()
    place = re.escape(f"{trainer.args.output_dir}/report.html")
    assert re.fullmatch(
        rf"[\d.]+× smaller, ([\d.]+× (faster|slower)|as fast) here(, keeps \d+ % of .+)?; {place}", line
    )


def test_the_lines_of_a_run(trained, capsys):
    trainer = trained(max_steps=4, logging_steps=2, eval_strategy="steps", eval_steps=4, learning_rate=1e-3)
    trainer.evaluate()
    lines = capsys.readouterr().out.splitlines()
    rows = trainer.args.rows_per_step
    assert lines[0] == f"4 steps of {rows} rows, learning rate 0.001"
    assert [re.sub(r"[\d.]+ (?=s$)|[\d.]+(?=×| %|  |$)", "_", line).split("  ")[0] for line in lines[1:]] == [
        *("step 2/_", "step 4/_", "step 4/_"),
        "trained for _s",
    ]
    assert re.fullmatch(r"step 2/4  loss [\d.]+  KL [\d.e-]+(  [\d.]+× smaller)?  eta \d+ s", lines[1])
    assert re.fullmatch(r"step 4/4  held out: KL [\d.e-]+  accuracy [\d.]+ %  [\d.]+× smaller", lines[3])


def test_verbose_shows_every_number(make_trainer, capsys):
    make_trainer(max_steps=1, logging_steps=1, verbose=True).train()
    out = capsys.readouterr().out
    assert "'num_bad_steps': 0" in out
    assert "step 1/1" not in out


def test_a_run_without_its_progress_is_silent(make_trainer, tmp_path, capsys):
    trainer = make_trainer(max_steps=1, logging_steps=1)
    trainer.remove_callback(ShortProgress)
    trainer.train()
    trainer.export(tmp_path / "small")
    assert capsys.readouterr().out == ""
