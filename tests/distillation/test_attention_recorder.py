import pytest
import torch
from students import FULL, UNEVEN, make_batch, make_student, masked, unlabelled
from tiny_architectures import tiny_architecture_teacher

from homodistil_hf.distillation.attention_recorder import AttentionRecorder
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.architectures.modeling_layerwise import LayerwiseModel
from homodistil_hf.models.conversion import to_student
from homodistil_hf.pruning.compaction import compact


def expected_query_keys(student: LayerwiseModel) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """From the hidden states that go into each layer."""
    states = student(**unlabelled(make_batch()), output_hidden_states=True).hidden_states
    attentions = [layer.attention.self for layer in student.bert.encoder.layer]
    return [(a.query(state), a.key(state)) for a, state in zip(attentions, states, strict=False)]


def assert_recorded(recorded: list, expected: list) -> None:
    assert len(recorded) == len(expected) == 2
    for pair, expected_pair in zip(recorded, expected, strict=True):
        for tensor, expected_tensor in zip(pair, expected_pair, strict=True):
            torch.testing.assert_close(tensor, expected_tensor, rtol=0, atol=1e-6)


def test_queries_and_keys_of_every_layer_in_order():
    student = make_student()
    expected = expected_query_keys(student)
    recorder = AttentionRecorder(student)
    with recorder.recording() as recorded:
        student(**unlabelled(make_batch()))
        assert recorded == []
    assert_recorded(recorded, expected)
    assert [tensor.shape for pair in recorded for tensor in pair] == [(4, 12, 32)] * 4
    assert all(tensor.requires_grad for pair in recorded for tensor in pair)


def test_nothing_is_held_outside_of_a_recording_however_it_ends():
    student, inputs = make_student(), unlabelled(make_batch())
    recorder = AttentionRecorder(student)
    with pytest.raises(IndexError, match="out of range"), recorder.recording():
        student(input_ids=torch.tensor([[10_000]]))
    student(**inputs)
    with recorder.recording():
        student(**inputs)
    student(**inputs)
    with recorder.recording() as recorded:
        pass
    assert recorded == []


def test_recording_goes_on_after_a_compaction():
    student = make_student()
    recorder = AttentionRecorder(student)
    groups, masks = masked(student, UNEVEN)
    compact(student, groups, masks, plan=UNEVEN)
    expected = expected_query_keys(student)
    with recorder.recording() as recorded:
        student(**unlabelled(make_batch()))
    assert_recorded(recorded, expected)
    assert [query.shape[-1] for query, _ in recorded] == [layer.attention_size for layer in UNEVEN.layers]
    assert UNEVEN.layers != FULL.layers


def test_projections_of_distances_are_not_recorded():
    """DeBERTa projects embedded distances by the same matrices, after the tokens."""
    architecture = ARCHITECTURES["deberta-v2"]
    student = to_student(tiny_architecture_teacher(architecture, architecture.heads[0]))
    assert student.config.share_att_key
    with AttentionRecorder(student).recording() as recorded:
        student(**unlabelled(make_batch()))
    assert [tensor.shape for pair in recorded for tensor in pair] == [(4, 12, 32)] * 4
