"""What the study of a family starts from."""

from benchmarks.results.family import STUDENTS, base_settings
from homodistil_hf.experiments.config import run_of


def test_the_settings_that_all_runs_share_are_valid_and_say_how_many_tokens_a_step_has():
    base = base_settings()
    config = run_of(base | {"student": STUDENTS[0], "output_dir": "x"}, "the test")
    assert config.training.per_device_train_batch_size == base["per_device_train_batch_size"]
    assert config.run.max_seq_length == base["max_seq_length"]
