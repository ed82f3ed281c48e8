import dataclasses
from contextlib import nullcontext

import pytest
import torch
from students import (
    TASKS,
    UNEVEN,
    UNIFORM,
    WITHOUT_DROPOUT,
    assert_same_logits,
    logits_of,
    make_batch,
    make_student,
    masked,
    unlabelled,
)
from tiny_models import make_teacher
from torch import nn
from transformers import AutoModelForMaskedLM, BertConfig

from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.families import modeling_homobert as modeling
from homodistil_hf.models.families.modeling_homobert import (
    HomoBertConfig,
    HomoBertForMaskedLM,
    HomoBertLayerNorm,
    HomoBertSelfAttention,
    layer_config,
    layer_head_dim,
)
from homodistil_hf.models.resizing import write_plan
from homodistil_hf.models.units import modules_of
from homodistil_hf.models.widths import LayerWidths, WidthPlan
from homodistil_hf.pruning.compaction import compact

# LayerNorm over kept channels


def make_norms(
    dropped: list[int], *, size: int = 12, dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, nn.Module]:
    """A norm with dropped channels, weights and bias of those 0, and a plain one of the kept channels."""
    kept = [channel for channel in range(size) if channel not in dropped]
    norm = HomoBertLayerNorm(HomoBertConfig(hidden_size=size, layer_norm_eps=1e-3, dropped_hidden_channels=dropped))
    plain = nn.LayerNorm(len(kept), eps=1e-3)
    with torch.no_grad():
        for name in ("weight", "bias"):
            values = torch.zeros(size)
            values[kept] = torch.randn(len(kept))
            getattr(norm, name).copy_(values)
            getattr(plain, name).copy_(values[kept])
    return norm.to(dtype), plain.to(dtype)


@pytest.fixture(params=[False, True], ids=["eager", "compiling"])
def compiling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways that the norm is written: for eager code, and for the compiler."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: request.param)


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("dropped", [[0], [3, 4, 11], [0, 1, 2, 3, 4, 5, 6, 7, 8, 10]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_norm_of_kept_channels_is_the_norm_of_the_compacted_vector(dropped, dtype):
    norm, plain = make_norms(dropped, dtype=dtype)
    kept = [channel for channel in range(12) if channel not in dropped]
    full = (3 + 2 * torch.randn(5, 4, 12)).to(dtype).requires_grad_()
    short = full.detach()[..., kept].clone().requires_grad_()
    out, expected = norm(full), plain(short)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-11, "atol": 1e-11}
    torch.testing.assert_close(out[..., kept], expected, **tolerance)
    assert out[..., dropped].abs().max() == 0
    upstream = torch.randn(5, 4, 12).to(dtype)
    out.backward(upstream)
    expected.backward(upstream[..., kept])
    torch.testing.assert_close(full.grad[..., kept], short.grad, **tolerance)
    assert full.grad[..., dropped].abs().max() == 0
    for name in ("weight", "bias"):
        gradient = getattr(norm, name).grad[kept]
        torch.testing.assert_close(gradient, getattr(plain, name).grad, **tolerance)


@pytest.mark.usefixtures("compiling")
def test_statistics_do_not_see_what_stands_in_dropped_channels():
    norm, _ = make_norms([2, 7])
    inputs = torch.randn(3, 12, dtype=torch.float64)
    other = inputs.clone()
    other[:, [2, 7]] = 1e6
    assert torch.equal(norm(inputs), norm(other))


@pytest.mark.usefixtures("compiling")
def test_gradients_of_the_norm_agree_with_finite_differences():
    norm, _ = make_norms([1, 5, 6])
    assert torch.autograd.gradcheck(norm, torch.randn(2, 12, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("dropped", [(), None, [4]], ids=str)
def test_without_dropped_channels_the_norm_is_the_stock_one(dropped):
    norm = HomoBertLayerNorm(HomoBertConfig(hidden_size=12, dropped_hidden_channels=dropped))
    norm.set_dropped_channels(())
    stock = nn.LayerNorm(12, eps=norm.eps)
    inputs = torch.randn(3, 12)
    assert torch.equal(norm(inputs), stock(inputs))


def test_dropped_channels_can_change():
    norm, _ = make_norms([0])
    inputs = torch.randn(3, 12, dtype=torch.float64)
    norm(inputs)
    norm.set_dropped_channels([0, 5])
    norm.weight.data[5] = norm.bias.data[5] = 0
    fresh, _ = make_norms([0, 5])
    fresh.load_state_dict(norm.state_dict())
    assert torch.equal(norm(inputs), fresh(inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_normalised_in_float32(dtype):
    norm, _ = make_norms([2, 7], dtype=torch.float32)
    inputs = (100 + torch.randn(64, 12)).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        out = norm(inputs)
    assert out.dtype == dtype
    assert torch.equal(out, norm(inputs.float()).to(dtype))


# Stock BERT's forward passes


@pytest.mark.parametrize("task", TASKS)
def test_a_full_student_is_stock_bert_bit_for_bit(task):
    teacher, inputs = make_teacher(task), make_batch(task)
    student = to_student(teacher)
    assert torch.equal(logits_of(student, inputs), logits_of(teacher, inputs))
    with torch.no_grad():
        assert float(student(**inputs).loss) == float(teacher(**inputs).loss)


def test_the_head_runs_at_masked_positions_only():
    student, inputs = make_student(), make_batch()
    positions = torch.tensor([0, 3, 17, 47, 3])
    seen = []
    student.cls.register_forward_hook(lambda module, args, out: seen.append(args[0].shape))
    with torch.no_grad():
        outputs = student(**unlabelled(inputs), masked_positions=positions, output_hidden_states=True)
        everywhere = student(**unlabelled(inputs)).logits.flatten(0, 1)
    assert seen[0] == (5, 32)
    torch.testing.assert_close(outputs.logits, everywhere[positions], rtol=1e-5, atol=1e-5)
    assert [state.shape for state in outputs.hidden_states] == [(4, 12, 32)] * 3
    assert student(**unlabelled(inputs), masked_positions=positions[:0]).logits.shape == (0, 96)


def test_labels_and_masked_positions_exclude_each_other():
    inputs = make_batch()
    with pytest.raises(
        ValueError, match=r"labels of shape \(4, 12\) and masked_positions exclude each other; drop one"
    ):
        make_student()(**inputs, masked_positions=torch.tensor([1]))


def test_hidden_states_begin_with_the_embeddings_and_end_with_the_last_layer():
    student, inputs = make_student("token_classification"), make_batch("token_classification")
    with torch.no_grad():
        states = student(**unlabelled(inputs), output_hidden_states=True).hidden_states
        last = student.bert(**unlabelled(inputs)).last_hidden_state
        embeddings = student.bert.embeddings(inputs["input_ids"])
    assert len(states) == 3
    assert torch.equal(states[0], embeddings)
    assert torch.equal(states[-1], last)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_both_attention_implementations_agree(implementation):
    student, inputs = make_student(dtype=torch.float64), make_batch()
    groups, masks = masked(student, UNEVEN)
    compact(student, groups, masks, plan=UNEVEN)
    expected = logits_of(student, inputs)
    student.set_attn_implementation(implementation)
    assert_same_logits(logits_of(student, inputs), expected)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("task", TASKS)
def test_gradient_checkpointing_changes_no_gradient(task):
    student, inputs = make_student(task).train(), make_batch(task)
    del student.projections
    masked(student, UNIFORM)
    student(**inputs).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in student.named_parameters()}
    student.zero_grad()
    student.gradient_checkpointing_enable()
    assert student.is_gradient_checkpointing
    student(**inputs).loss.backward()
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-6, atol=1e-7)


# Widths


def test_the_softmax_keeps_the_scale_it_was_told():
    config = HomoBertConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=3, head_dim=4, intermediate_size=24
    )
    told = HomoBertConfig(**config.to_dict() | {"softmax_head_dim": 16})
    default, student = HomoBertForMaskedLM(config).double().eval(), HomoBertForMaskedLM(told).double().eval()
    student.load_state_dict(default.state_dict())
    for attention in modules_of(default, HomoBertSelfAttention):
        assert attention.scaling == 4**-0.5
        attention.query.weight.data *= 0.5
        attention.query.bias.data *= 0.5
    assert [attention.scaling for attention in modules_of(student, HomoBertSelfAttention)] == [0.25, 0.25]
    assert_same_logits(logits_of(student, make_batch()), logits_of(default, make_batch()))


def test_head_sizes_and_layers_are_read_off_configurations():
    assert layer_head_dim(BertConfig(hidden_size=48, num_attention_heads=4)) == 12
    assert layer_head_dim(HomoBertConfig(hidden_size=48, num_attention_heads=4)) == 12
    config = HomoBertConfig(hidden_size=50, num_hidden_layers=2, num_attention_heads=4, head_dim=7)
    assert layer_head_dim(config) == 7
    assert layer_config(config, 1) is config
    write_plan(config, WidthPlan(19, UNEVEN.layers))
    for index, widths in enumerate(UNEVEN.layers):
        view = layer_config(config, index)
        assert (view.num_attention_heads, layer_head_dim(view), view.intermediate_size) == dataclasses.astuple(widths)


@pytest.mark.parametrize("task", TASKS)
def test_a_masked_uneven_student_saves_and_loads(task, tmp_path):
    student, inputs = make_student(task), make_batch(task)
    groups, masks = masked(student, UNEVEN)
    compact(student, groups, masks, plan=UNEVEN)
    masked(student, WidthPlan(13, (LayerWidths(2, 5, 16), LayerWidths(1, 4, 30))), seed=1)
    del student.projections
    student.save_pretrained(tmp_path)
    loaded = type(student).from_pretrained(tmp_path)
    assert loaded.config.dropped_hidden_channels == student.config.dropped_hidden_channels
    assert len(loaded.config.dropped_hidden_channels) == 6
    assert torch.equal(logits_of(loaded.eval(), inputs), logits_of(student, inputs))
    if task == "masked_lm":
        assert type(AutoModelForMaskedLM.from_pretrained(tmp_path)) is HomoBertForMaskedLM


@pytest.mark.parametrize(("classifier", "hidden", "expected"), [(None, 0.3, 0.3), (0.2, 0.3, 0.2), (0.0, 0.3, 0.0)])
@pytest.mark.parametrize("task", ["sequence_classification", "token_classification"])
def test_the_classifiers_dropout_is_stock_berts(task, classifier, hidden, expected):
    settings = WITHOUT_DROPOUT | {"classifier_dropout": classifier, "hidden_dropout_prob": hidden}
    teacher = make_teacher(task, **settings)
    assert to_student(teacher).dropout.p == teacher.dropout.p == expected


# Memory of the backward pass


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("autocasts", [False, True])
def test_activations_are_computed_again_without_a_difference(autocasts, dropout, monkeypatch):
    def gradients(*, again: bool) -> list[torch.Tensor]:
        student = make_student().train()
        for module in student.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
        if not again:
            monkeypatch.setattr(modeling, "_computed_again", lambda tensor, compute: nullcontext())
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocasts):
            logits = student(**unlabelled(make_batch())).logits
        logits.float().square().sum().backward()
        return [parameter.grad for parameter in student.parameters() if parameter.grad is not None]

    mine, stock = gradients(again=True), gradients(again=False)
    assert len(mine) == len(stock) > 10
    assert all(torch.equal(a, b) for a, b in zip(mine, stock, strict=True))


def test_what_an_activation_gives_is_not_kept():
    student = make_student().train()
    intermediate = student.bert.encoder.layer[0].intermediate
    given: list[torch.Tensor] = []
    intermediate.intermediate_act_fn.register_forward_hook(lambda module, args, out: given.append(out.detach()))
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = student(**unlabelled(make_batch())).logits.sum()
    assert len(given) == 1
    assert given[0].data_ptr() not in kept
    loss.backward()
    assert len(given) == 2
