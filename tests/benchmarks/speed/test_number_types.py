"""The teacher's predictions in cheaper number types, beside its own."""

import torch
from tiny_files import write_teacher

from benchmarks.speed.number_types import teacher_types


def test_types_are_compared_with_float32_at_masked_positions(tmp_path):
    name = str(write_teacher(tmp_path / "teacher", max_position_embeddings=128))
    ids_BT = torch.randint(5, 30, (4, 16))
    batch = {"input_ids": ids_BT, "labels": torch.where(torch.arange(16) % 4 == 0, ids_BT, -100)}
    found = teacher_types(name, [batch])
    exact, half, eighth = found.values()
    assert (exact["kl"], exact["agreement"], exact["states_error"]) == (0.0, 1.0, 0.0)
    assert 0 < half["kl"] < eighth["kl"]
    assert 0 < half["states_error"] < eighth["states_error"] < 1
    assert all(one["median_s"] > 0 for one in found.values())
