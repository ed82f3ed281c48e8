"""What two records of runs have alike: weights without metadata, numbers without times."""

import torch
from safetensors.torch import save_file

from benchmarks.reliability.identity import differences, numbers_in, record_of, weights_digest


def test_digests_are_of_tensors_alone(tmp_path):
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(3, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "one", metadata={"written": "today"})
    save_file(dict(reversed(tensors.items())), tmp_path / "other")
    assert weights_digest(tmp_path / "one") == weights_digest(tmp_path / "other")
    for changed in ({"b": tensors["b"].view(3, 2)}, {"b": tensors["b"] + 1e-6}, {"c": torch.ones(1)}):
        save_file(tensors | changed, tmp_path / "changed")
        assert weights_digest(tmp_path / "changed") != weights_digest(tmp_path / "one")


def test_numbers_are_those_that_do_not_depend_on_the_clock():
    values = {"loss": [1.5, {"kl": 2}], "time_s": 3.0, "train_runtime": 4.0, "lr": float("nan"), "name": "5"}
    assert dict(numbers_in(values | {"settings": {"seed": 6}})) == {"/loss/0": 1.5, "/loss/1/kl": 2}


def test_the_last_checkpoint_counts(tmp_path):
    for number in (8, 12):
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir()
        save_file({"a": torch.ones(number)}, folder / "model.safetensors")
        save_file({"a": torch.ones(number)}, folder / "moments.safetensors")
    assert list(record_of(tmp_path)["weights"]) == ["checkpoint-12/model.safetensors"]


def test_differences_name_what_differs():
    before = {"status": 0, "weights": {"student": "abc"}, "losses": {}}
    assert not list(differences(before, before))
    after = {"status": 0, "weights": {"student": "abd", "more": "e"}, "losses": {}}
    assert list(differences(before, after)) == [" weights student: abc -> abd", " weights more: None -> e"]
