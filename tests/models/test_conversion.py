"""Logits survive every conversion; what can't be converted is named."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import each
from safetensors.torch import load_file, save_file
from students import assert_same_logits, logits_of, make_inputs
from tiny_architectures import tiny_architecture_teacher
from tiny_models import NUM_LAYERS, UNEVEN, UNIFORM, make_teacher, random_student, randomized, tiny_config
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertLMHeadModel,
    BertModel,
)

from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.architectures.bert import BERT
from homodistil_hf.models.architectures.modeling_homobert import (
    HomoBertConfig,
    HomoBertForMaskedLM,
    HomoBertForSequenceClassification,
)
from homodistil_hf.models.conversion import to_stock, to_student
from homodistil_hf.models.loading import load_encoder, load_encoder_config
from homodistil_hf.models.widths import LayerWidths, WidthPlan, widths_of
from homodistil_hf.pruning.compaction import remove_padding

TEACHER_CLASSES = (
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertForQuestionAnswering,
)
STUDENTS = {head.student.__name__: head.student for head in BERT.heads}
DTYPES = (torch.float32, torch.float64)


def padded_weights(stock, plan):
    """Every element of a stock model that padding put there, by parameter."""
    grown = random_student(STUDENTS[f"Homo{type(stock).__name__}"], plan)
    for parameter in grown.parameters():
        nn.init.ones_(parameter)
    ones = to_stock(grown).state_dict()
    return {name: ones[name] == 0 for name in ones if bool((ones[name] == 0).any())}


# Teacher → student


def test_a_student_of_pre_training_predicts_masked_words():
    teacher = make_teacher(BertForPreTraining)
    student = to_student(teacher)
    assert type(student) is HomoBertForMaskedLM
    assert_same_logits(logits_of(student), logits_of(teacher))


def test_a_student_remembers_what_its_teacher_was_set_to():
    teacher = make_teacher(
        BertForSequenceClassification,
        id2label={0: "no", 1: "yes", 2: "maybe"},
        label2id={"no": 0, "yes": 1, "maybe": 2},
        problem_type="single_label_classification",
        hidden_dropout_prob=0.05,
        attention_probs_dropout_prob=0.15,
        classifier_dropout=0.25,
        pad_token_id=3,
        layer_norm_eps=1e-7,
        hidden_act="relu",
        name_or_path="somebody/some-bert",
        attn_implementation="eager",
        finetuning_task="some-task",
    )
    student = to_student(teacher)
    assert student.classifier.out_features == 3
    assert student.dropout.p == 0.25
    expected = {"model_type": "homobert", "head_dim": 8, "softmax_head_dim": 8}
    assert student.config.to_dict() == teacher.config.to_dict() | expected
    assert student.config._attn_implementation == "eager"
    assert student.name_or_path == "somebody/some-bert"


@pytest.mark.parametrize("is_training", (True, False))
def test_a_student_is_in_its_teachers_mode_with_weights_of_its_own(is_training):
    teacher = make_teacher(BertForMaskedLM).train(is_training)
    student = to_student(teacher)
    assert student.training is is_training
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    randomized(student, seed=5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_a_half_precision_teacher_becomes_a_float32_student(tmp_path):
    teacher = make_teacher(BertForMaskedLM).to(torch.bfloat16)
    assert {parameter.dtype for parameter in load_encoder(saved(teacher, tmp_path)).parameters()} == {torch.float32}
    student = to_student(teacher)
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    assert_same_logits(logits_of(student), logits_of(teacher.float()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_student_has_float32_whatever_torchs_default_is(dtype):
    model = make_teacher()
    expected, default = to_student(model).state_dict(), torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        found = to_student(model).state_dict()
    finally:
        torch.set_default_dtype(default)
    assert all(tensor.dtype == torch.float32 and torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_what_no_file_holds_is_made_in_float32_too():
    teacher = tiny_architecture_teacher(architecture := ARCHITECTURES["gemma3_text"], architecture.heads[0])
    inputs, default = {"input_ids": torch.arange(5, 13)[None]}, torch.get_default_dtype()
    expected = logits_of(to_student(teacher), inputs)
    try:
        torch.set_default_dtype(torch.bfloat16)
        student = to_student(teacher)
    finally:
        torch.set_default_dtype(default)
    assert torch.equal(logits_of(student, inputs), expected)


def test_a_student_of_a_student_is_a_copy_without_projections():
    source = random_student(HomoBertForMaskedLM)
    source.projections = nn.ModuleDict({"hidden_0": nn.Linear(24, 32, bias=False)})
    copy = to_student(source)
    assert torch.equal(logits_of(copy), logits_of(source))
    assert widths_of(copy.config) == UNEVEN
    assert not any(name.startswith("projections") for name in copy.state_dict())


@each("convert", (to_student, lambda model: to_stock(to_student(model))))
@each("is_stated", (True, False))
def test_a_decoder_of_its_own_stays_its_own(is_stated, convert):
    teacher = make_teacher(BertForMaskedLM, tie_word_embeddings=False)
    # transformers leaves a decoder untied that is stored with other values, whatever the configuration says.
    teacher.config.tie_word_embeddings = not is_stated
    assert_same_logits(logits_of(convert(teacher)), logits_of(teacher))


# Student → stock

widths = st.builds(LayerWidths, st.integers(1, 4), st.integers(1, 6), st.integers(1, 20))


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    layers=st.lists(widths, min_size=1, max_size=3),
    student_class=st.sampled_from(list(STUDENTS.values())),
    dtype=st.sampled_from(DTYPES),
    softmax_head_dim=st.sampled_from((None, 3, 64)),
)
def test_any_widths_give_the_same_logits_as_stock_bert(layers, student_class, dtype, softmax_head_dim):
    plan = WidthPlan(24, tuple(layers))
    student = random_student(student_class, plan, softmax_head_dim=softmax_head_dim).to(dtype)
    stock = to_stock(student)
    assert type(stock) is BERT.heads_by_name[student_class.__name__].stock
    assert_same_logits(logits_of(stock), logits_of(student))


@each("hidden_act", ("gelu", "relu", "gelu_new", "silu"))
def test_padding_is_silent_under_any_activation(hidden_act):
    student = random_student(HomoBertForMaskedLM, hidden_act=hidden_act).double()
    assert_same_logits(logits_of(to_stock(student)), logits_of(student))


def test_tied_weights_stay_tied():
    stock = to_stock(random_student(HomoBertForMaskedLM))
    assert stock.cls.predictions.decoder.weight is stock.bert.embeddings.word_embeddings.weight
    assert stock.cls.predictions.decoder.bias is stock.cls.predictions.bias


def test_padding_stays_zero_when_the_stock_model_is_trained_on():
    stock = to_stock(random_student(HomoBertForSequenceClassification)).train()
    padding = padded_weights(stock, UNEVEN)
    assert sum(int(mask.sum()) for mask in padding.values()) > 1000
    optimizer = torch.optim.AdamW(stock.parameters(), lr=1e-2, weight_decay=0.1)
    before = stock.bert.encoder.layer[0].intermediate.dense.weight.detach().clone()
    for _ in range(5):
        stock(**make_inputs(stock.config), labels=torch.tensor([0, 1, 0, 1])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not torch.equal(stock.bert.encoder.layer[0].intermediate.dense.weight, before)
    assert all(bool((stock.state_dict()[name][mask] == 0).all()) for name, mask in padding.items())


def test_only_the_zeros_of_padding_are_cut():
    student = to_student(to_stock(random_student(HomoBertForMaskedLM)))
    with torch.no_grad():
        student.bert.encoder.layer[1].output.dense.weight[3, -1] = 1e-3
    with pytest.raises(ValueError, match=r"not zero in bert\.encoder\.layer\.1\.output\.dense\.weight; keep"):
        remove_padding(student, UNEVEN)
    student = to_student(to_stock(random_student(HomoBertForMaskedLM, UNIFORM)))
    with pytest.raises(ValueError, match=r'pads to .*"intermediate_size": 9}, but the student has .*: 16}'):
        remove_padding(student, WidthPlan.uniform(24, NUM_LAYERS, LayerWidths(3, 8, 9)))


def test_what_has_no_stock_form_is_refused():
    with pytest.raises(ValueError, match="model=BertForMaskedLM is no student; expected one of HomoBertForMaskedLM"):
        to_stock(make_teacher(BertForMaskedLM))
    student = random_student(HomoBertForMaskedLM, WidthPlan.uniform(22, NUM_LAYERS, LayerWidths(3, 5, 16)))
    with pytest.raises(ValueError, match="hidden_size=22 .*at least 3 heads .*nearest valid plan: {"):
        to_stock(student)


# Refusals


@pytest.mark.parametrize(
    ("teacher_class", "remedy"),
    [
        (BertModel, "no head .* load it as BertForMaskedLM"),
        (BertLMHeadModel, "decoder: load it as BertForMaskedLM"),
        (BertForMultipleChoice, "choose a stock encoder"),
    ],
)
def test_unsupported_classes_are_named(teacher_class, remedy):
    message = f"teacher class {teacher_class.__name__} is not supported; expected …ForMaskedLM, .* of bert, .*{remedy}"
    with pytest.raises(ValueError, match=message):
        to_student(teacher_class(tiny_config()))


# Loading


def saved(model, folder, **config_values):
    model.save_pretrained(folder)
    if config_values:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **config_values}))
    return str(folder)


@each("teacher_class", [cls for cls in TEACHER_CLASSES if cls is not BertForPreTraining])
def test_a_teacher_is_loaded_as_the_class_it_was_saved_as(tmp_path, teacher_class):
    teacher = make_teacher(teacher_class)
    loaded = load_encoder(saved(teacher, tmp_path))
    assert type(loaded) is teacher_class
    assert not loaded.training
    assert loaded.config.name_or_path == str(tmp_path)
    assert torch.equal(logits_of(loaded), logits_of(teacher))


@pytest.mark.parametrize("architectures", (["BertForPreTraining"], None))
def test_masked_words_are_the_default_head(tmp_path, architectures):
    teacher = make_teacher(BertForPreTraining)
    loaded = load_encoder(saved(teacher, tmp_path, architectures=architectures))
    assert type(loaded) is BertForMaskedLM
    assert torch.equal(logits_of(loaded), logits_of(teacher))


def test_the_first_berts_files_are_read(tmp_path):
    teacher = make_teacher(BertForPreTraining)
    folder = saved(teacher, tmp_path, architectures=["BertForMaskedLM"])
    path = tmp_path / "model.safetensors"
    old_names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = {}
    for name, tensor in load_file(path).items():
        old = next((old for new, old in old_names.items() if name.endswith(new)), None)
        tensors[f"{name.rpartition('LayerNorm')[0]}{old}" if old else name] = tensor
    assert sum(name.endswith("gamma") for name in tensors) == 2 * NUM_LAYERS + 2
    save_file(tensors, path, metadata={"format": "pt"})
    assert torch.equal(logits_of(load_encoder(folder)), logits_of(teacher))


def test_configurations_are_read_without_weights(tmp_path):
    make_teacher(BertForMaskedLM).config.save_pretrained(tmp_path)
    config = load_encoder_config(str(tmp_path))
    assert (type(config), config.hidden_size, config.architectures) == (BertConfig, 32, ["BertForMaskedLM"])
    random_student(HomoBertForMaskedLM).config.save_pretrained(tmp_path)
    config = load_encoder_config(str(tmp_path))
    assert type(config) is HomoBertConfig
    assert widths_of(config) == UNEVEN


@each(
    ("values", "message"),
    [
        ({"architectures": ["BertModel"]}, "teacher class BertModel is not supported"),
        ({"architectures": ["BertForNextSentencePrediction"]}, "BertForNextSentencePrediction is not supported"),
        ({"is_decoder": True}, "is_decoder=True, add_cross_attention=False"),
        ({"position_embedding_type": "relative_key_query"}, "position_embedding_type='relative_key_query'"),
        ({"auto_map": {"AutoModel": "modeling_x.XModel"}}, "brings its own modelling code .*AutoModel"),
        ({"model_type": "albert"}, "has model_type='albert'; supported: bert.*Choose an encoder"),
    ],
)
def test_unsupported_checkpoints_are_refused_before_weights_are_read(tmp_path, values, message):
    config = make_teacher(BertForMaskedLM).config.to_dict()
    (tmp_path / "config.json").write_text(json.dumps({**config, **values}))
    with pytest.raises(ValueError, match=message):
        load_encoder(str(tmp_path))


def test_missing_weights_are_named(tmp_path):
    folder = saved(BertModel(tiny_config()), tmp_path, architectures=["BertForMaskedLM"])
    with pytest.raises(ValueError, match=r"no weights for cls\.predictions.* and 3 more, which BertForMaskedLM needs"):
        load_encoder(folder)
