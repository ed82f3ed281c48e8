"""Where architectures bite: each trap that was met has a test of its own here, or is named beside the one that has it.

Positions that begin behind the padding token: tests/vocabulary/test_trimming.py. Heads that all layers share:
tests/training/test_architectures.py. Masks of the wrong sign:
tests/models/architectures/test_architectures.py.
"""

import json
import re

import pytest
import torch
from students import assert_same_logits, logits_of, make_batch, masked, sliced, zeroed_copy
from tiny_architectures import UNEVEN, UNIFORM, VARIANTS, plan_of, tiny_architecture_config, tiny_architecture_teacher

from homodistil_hf import resolve_plan
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.conversion import to_stock, to_student
from homodistil_hf.models.loading import load_encoder
from homodistil_hf.models.units import encoder_groups
from homodistil_hf.models.widths import LayerWidths, WidthPlan, widths_of
from homodistil_hf.pruning.compaction import compact, remove_padding


def head_of(architecture, kind):
    return next(head for head in architecture.heads if head.kind.name == kind)


def student_of(name, kind, **config):
    architecture = ARCHITECTURES[name]
    return to_student(tiny_architecture_teacher(architecture, head_of(architecture, kind), **config))


def test_electra_never_gets_embeddings_as_wide_as_its_hidden_states():
    config = tiny_architecture_config(ARCHITECTURES["electra"])  # embeddings of 20
    widths = {"num_attention_heads": 2, "head_dim": 8, "intermediate_size": 32}
    plan = resolve_plan({"hidden_size": 20, **widths}, config)
    assert plan.embedding_size not in (None, 20)
    for student in ("macs=0.5", "macs=0.3", "params=12k"):
        assert (found := resolve_plan(student, config)).embedding_size not in (None, found.hidden_size)
    with pytest.raises(ValueError, match="embedding_size=16 is its hidden size, .* leaves the projection .* out"):
        resolve_plan({"hidden_size": 16, "embedding_size": 16, **widths}, config)


def test_mpnet_loses_the_same_heads_in_every_layer_and_keeps_their_columns():
    student = student_of("mpnet", "masked_lm")
    groups = encoder_groups(student)
    assert [name for name in groups if name.startswith("head")] == ["head"]
    before = student.mpnet.encoder.relative_attention_bias.weight.detach().clone()
    sliced(student, plan_of(ARCHITECTURES["mpnet"], UNIFORM))
    after = student.mpnet.encoder.relative_attention_bias.weight
    assert after.shape == (before.shape[0], 2)
    assert all(any(torch.equal(column, old) for old in before.T) for column in after.T)


@pytest.mark.parametrize("name", ["xlm-roberta", "camembert", "roberta"])
def test_words_that_are_called_after_the_decoder_are_sliced_once(name):
    student = student_of(name, "masked_lm")
    words = [n for n, p in student.named_parameters() if p is student.get_input_embeddings().weight]
    assert len(words) == 1
    (hidden,) = (group for group in encoder_groups(student).values() if group.name == "hidden")
    assert [piece.dim for piece in hidden.slices if piece.parameter == words[0]] == [1]
    sliced(student, plan_of(ARCHITECTURES[name], UNIFORM))
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight


def test_the_pooler_of_deberta_is_as_wide_as_its_hidden_states():
    student = student_of("deberta-v2", "sequence_classification").double().eval()
    sliced(student, plan_of(ARCHITECTURES["deberta-v2"], UNIFORM))
    stock = to_stock(student)
    assert stock.pooler.dense.in_features == stock.config.hidden_size == 16
    inputs = make_batch("sequence_classification")
    assert_same_logits(logits_of(stock, inputs), logits_of(student, inputs))


def test_convolutions_in_groups_are_refused_before_anything_is_cut():
    settings = {"conv_kernel_size": 3, "conv_act": "gelu", "conv_groups": 2}
    with pytest.raises(
        ValueError, match=r"parameter deberta.encoder.conv.conv.weight has the shape .* not known here"
    ):
        student_of("deberta-v2", "sequence_classification", **settings)


def test_a_head_of_deberta_v3_that_would_be_random_is_refused_by_the_names_of_its_weights(tmp_path):
    architecture = ARCHITECTURES["deberta-v2"]
    tiny_architecture_teacher(architecture, head_of(architecture, "masked_lm"), legacy=False).save_pretrained(tmp_path)
    config = architecture.config.stock.from_pretrained(tmp_path)
    config.legacy = True  # the default, which checkpoints of v3 leave
    config.architectures = ["DebertaV2ForMaskedLM"]
    with pytest.raises(ValueError, match="has no weights for cls.predictions"):
        load_encoder(str(tmp_path), config=config)


def test_names_of_distilbert_are_its_own_in_plans_too():
    student = student_of("distilbert", "masked_lm")
    sliced(student, plan_of(ARCHITECTURES["distilbert"], UNIFORM))
    written = to_stock(student).config.to_dict()
    assert (written["dim"], written["n_heads"], written["hidden_dim"]) == (16, 2, 32)
    assert "intermediate_size" not in written
    assert widths_of(to_stock(student).config) == UNIFORM


def test_attention_without_a_fused_kernel_is_eager_and_mpnet_checkpoints_no_gradients():
    for name in ("mpnet", "deberta-v2"):
        assert student_of(name, "masked_lm").config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="does not support"):
        student_of("mpnet", "masked_lm").gradient_checkpointing_enable()


TURNED = WidthPlan(24, (LayerWidths(3, 4, 41), LayerWidths(2, 6, 16)))  # one global layer, one local
TURNED_FURTHER = WidthPlan(16, (LayerWidths(2, 2, 16), LayerWidths(2, 4, 16)))


@pytest.mark.slow
@pytest.mark.parametrize("config", [{}, VARIANTS["modernbert-with-biases"][1]], ids=["plain", "biases"])
@pytest.mark.parametrize("head", ARCHITECTURES["modernbert"].heads, ids=lambda head: head.kind.name)
def test_rotary_pairs_keep_their_frequencies_in_all_layers_of_a_type(head, config, tmp_path):
    # float32: positions turn channels in float32 whatever the model has, and smaller heads scale them.
    architecture = ARCHITECTURES["modernbert"]
    student = to_student(tiny_architecture_teacher(architecture, head, **config)).eval()
    inputs = make_batch(head.kind.name)
    for plan in (TURNED, TURNED_FURTHER):  # the second cut is one among what the first left
        plan = plan_of(architecture, plan, **config)
        groups, masks = masked(student, plan)
        assert {name for name in groups if name.startswith("query_key")} == {
            "query_key.full_attention",
            "query_key.sliding_attention",
        }
        expected = logits_of(zeroed_copy(student, masks), inputs)
        compact(student, groups, masks, plan=plan)
        assert_same_logits(logits_of(student, inputs), expected)
        sizes = {kind: len(pairs) * 2 for kind, pairs in student.config.rotary_pairs.items()}
        assert sizes == dict(zip(student.config.layer_types, (each.head_dim for each in plan.layers), strict=True))
        student.save_pretrained(tmp_path)
        assert_same_logits(logits_of(type(student).from_pretrained(tmp_path).eval(), inputs), expected)
    stock = to_stock(student)
    assert (type(stock), widths_of(stock.config).layers[0].head_dim) == (head.stock, 8)
    assert_same_logits(logits_of(stock, inputs), expected)
    again = to_student(stock).eval()
    remove_padding(again, plan)
    assert again.config.rotary_pairs == student.config.rotary_pairs
    assert_same_logits(logits_of(again, inputs), expected)


def test_rotary_pairs_of_a_configuration_fit_its_heads():
    student = student_of("modernbert", "masked_lm")
    sliced(student, plan_of(ARCHITECTURES["modernbert"], TURNED))
    for pairs in ([0], [0, 1, 2], [0, 9], [0, -1]):
        student.config.rotary_pairs["full_attention"] = pairs
        with pytest.raises(ValueError, match=r"rotary_pairs\['full_attention'\]=.* head_dim=4 in layer 0; .* below 4"):
            type(student)(student.config)


@pytest.mark.parametrize(
    ("head_dims", "message"),
    [
        ((4, 5), "head_dim=5 is odd, but positions turn .* in pairs; nearest valid: 6"),
        ((4, 6, 8), "head_dim=8 and 6 among layers of sliding_attention.*; nearest valid: 6 in all of them"),
    ],
)
def test_heads_that_rotary_positions_have_no_place_for_are_refused(head_dims, message):
    config = tiny_architecture_config(ARCHITECTURES["modernbert"], num_hidden_layers=len(head_dims))
    layers = [{"num_attention_heads": 3, "head_dim": size, "intermediate_size": 32} for size in head_dims]
    with pytest.raises(ValueError, match=message):
        resolve_plan({"hidden_size": 24, "layers": layers}, config)


@pytest.mark.parametrize(("hidden_size", "nearest"), [(20, 16), (31, 24), (6, 8)])
def test_a_hidden_size_that_slots_do_not_fill_is_refused_with_one_that_they_do(hidden_size, nearest):
    config = tiny_architecture_config(ARCHITECTURES["modernbert"])  # heads of 8
    plan = {"hidden_size": hidden_size, "num_attention_heads": 4, "head_dim": 4, "intermediate_size": 32}
    with pytest.raises(ValueError, match="cannot be split into at least 4 heads") as caught:
        resolve_plan(plan, config)
    (told,) = re.findall(r"nearest valid plan: (\{.*\})", str(caught.value))
    found = resolve_plan(json.loads(told), config)
    assert (found.hidden_size, found.layers[0].num_attention_heads) == (nearest, nearest // 8)


def test_only_plans_that_ask_for_it_lose_rotary_pairs():
    config = ARCHITECTURES["modernbert"].config.stock()  # heads of 64
    assert {layer.head_dim for layer in resolve_plan("macs=0.25", config).layers} == {64}
    compact_plan = resolve_plan("compact_macs=0.25", config)
    assert {layer.head_dim for layer in compact_plan.layers} == {48}
    assert {layer.head_dim for layer in compact_plan.padded().layers} == {64}


def test_a_head_size_that_deberta_says_twice_follows_the_plan(tmp_path):
    """The checkpoints of 900 M and 1.5 B parameters have `attention_head_size` beside the number of heads."""
    teacher = tiny_architecture_teacher(
        ARCHITECTURES["deberta-v2"], head_of(ARCHITECTURES["deberta-v2"], "masked_lm"), attention_head_size=8
    )
    student, inputs = to_student(teacher).double().eval(), make_batch()
    assert_same_logits(logits_of(to_stock(student), inputs), logits_of(teacher.double(), inputs))
    sliced(student, plan_of(ARCHITECTURES["deberta-v2"], UNEVEN))
    expected = logits_of(student, inputs)
    for number, model in enumerate((student, to_stock(student))):
        model.save_pretrained(tmp_path / str(number))
        loaded = type(model).from_pretrained(tmp_path / str(number), dtype=torch.float64).eval()
        assert_same_logits(logits_of(loaded, inputs), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"return_dict": False}, {"output_attentions": True}, {"output_hidden_states": True}]
)
@pytest.mark.parametrize("name", ["bert", "distilbert", "deberta-v2"])
def test_settings_of_outputs_are_dropped(name, settings, tmp_path):
    architecture = ARCHITECTURES[name]
    teacher = tiny_architecture_teacher(architecture, architecture.heads[0])
    teacher.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    loaded = load_encoder(tmp_path)
    teacher.config.update({name: value for name, value in settings.items() if name != "output_attentions"})
    for model in (to_student(loaded), to_student(teacher), to_stock(to_student(teacher))):
        for setting in settings:
            assert getattr(model.config, setting) == getattr(type(model.config)(), setting)
        assert torch.equal(logits_of(model, make_batch()), logits_of(loaded, make_batch()))
