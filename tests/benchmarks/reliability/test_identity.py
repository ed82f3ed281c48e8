"""What two records of runs have alike: weights without metadata, numbers without times."""

import torch
from safetensors.torch import save_file

from benchmarks.reliability.identity import weights_digest


def test_digests_are_of_tensors_alone(tmp_path):
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(3, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "one", metadata={"written": "today"})
    save_file(dict(reversed(tensors.items())), tmp_path / "other")
    assert weights_digest(tmp_path / "one") == weights_digest(tmp_path / "other")
    for changed in ({"b": tensors["b"].view(3, 2)}, {"b": tensors["b"] + 1e-6}, {"c": torch.ones(1)}):
        save_file(tensors | changed, tmp_path / "changed")
        assert weights_digest(tmp_path / "changed") != weights_digest(tmp_path / "one")
