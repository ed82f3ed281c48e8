"""A student is its model, or the reason why it can't be is named before any time is spent."""

import copy

import pytest
import torch
from rows import each
from students import logits_of
from tiny_architectures import tiny_architecture_teacher
from tiny_models import make_teacher
from torch import nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_outputs import SequenceClassifierOutput

from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.conversion import to_student

CLASSIFIER = "sequence_classification"


def classifier():
    return make_teacher(CLASSIFIER)


class MeanPooled(BertForSequenceClassification):
    """The stock parameters under the stock name, but it averages tokens."""

    def forward(self, input_ids=None, attention_mask=None, labels=None, **kwargs):
        states = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask[..., None].to(states)
        pooled = torch.tanh(self.bert.pooler.dense((states * weights).sum(1) / weights.sum(1)))
        return SequenceClassifierOutput(logits=self.classifier(pooled))


MeanPooled.__name__ = MeanPooled.__qualname__ = "BertForSequenceClassification"


class Logged(BertForSequenceClassification):
    """A class of one's own that computes what the stock class does."""

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


Logged.__name__ = "BertForSequenceClassification"


def of_class(kind):
    model = kind(classifier().config)
    model.load_state_dict(classifier().state_dict())
    return model.eval()


def test_a_class_of_ones_own_under_a_stock_name_is_refused():
    with pytest.raises(ValueError, match=r"=.*BertForSequenceClassification is not the function .* differ by"):
        to_student(of_class(MeanPooled))


def test_a_class_of_ones_own_that_computes_the_same_is_taken():
    model = of_class(Logged)
    assert torch.equal(logits_of(to_student(model)), logits_of(model))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_class_of_ones_own_whose_answers_are_no_numbers_is_refused(value):
    class Spoilt(Logged):
        def forward(self, *args, **kwargs):
            outputs = super().forward(*args, **kwargs)
            outputs.logits[0, 0] = value
            return outputs

    Spoilt.__name__ = "BertForSequenceClassification"
    with pytest.raises(
        ValueError, match="is not the function that its name and config describe: .* differ by (nan|inf)"
    ):
        to_student(of_class(Spoilt))


def test_a_replaced_forward_of_one_model_is_refused():
    model = make_teacher("masked_lm").eval()
    stock = model.forward
    model.forward = lambda **inputs: {"logits": 2 * stock(**inputs).logits}
    with pytest.raises(ValueError, match="is not the function that its name"):
        to_student(model)


@pytest.fixture
def half_attention():
    """The name of an attention that, as kernels for half precision do, takes no float32."""

    def half(module, query, *others, **kwargs):
        if query.dtype == torch.float32:
            raise RuntimeError("this kernel takes half precision only")
        return sdpa_attention_forward(module, query, *others, **kwargs)

    AttentionInterface.register("half_only", half)
    AttentionMaskInterface.register("half_only", AttentionMaskInterface()["sdpa"])
    yield "half_only"
    AttentionInterface._global_mapping.pop("half_only")
    AttentionMaskInterface._global_mapping.pop("half_only")


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_a_model_with_a_kernel_that_takes_no_float32_is_taken(half_attention, name):
    model = tiny_architecture_teacher(ARCHITECTURES[name], ARCHITECTURES[name].heads[0]).to(torch.bfloat16)
    model.set_attn_implementation(half_attention)
    student = to_student(model)
    assert student.config._attn_implementation == half_attention
    for own in (student, model):
        own.set_attn_implementation("sdpa")
    ids = torch.arange(5, 15)[None]
    assert torch.equal(student.to(torch.bfloat16).eval()(ids).logits, model.eval()(ids).logits)


def test_other_outputs_are_refused():
    model = classifier()
    model.forward = lambda **inputs: {"logits": torch.zeros(2, 5)}
    with pytest.raises(ValueError, match=r"outputs of shapes \[\(2, 5\)\], its stock class \[\(2, 2\)\]"):
        to_student(model)
    model.forward = lambda **inputs: {"scores": torch.zeros(2, 2)}
    with pytest.raises(ValueError, match=r"outputs of shapes \[\], its stock class"):
        to_student(model)
    model.forward = lambda inputs_embeds: None
    with pytest.raises(ValueError, match=r"can't read a batch of token ids \(TypeError"):
        to_student(model)


@pytest.mark.parametrize("name", ["masked_lm", CLASSIFIER])
def test_adapters_inside_are_refused(name):
    model = make_teacher(name)
    linear = model.bert.encoder.layer[0].attention.self.query
    linear.base_layer, linear.lora_A = copy.deepcopy(linear), nn.Linear(32, 2)
    with pytest.raises(
        ValueError, match=r"is not as its config .*lora_A.*merge adapters first: .*merge_and_unload\(\)"
    ):
        to_student(model)


def other_head():
    model = classifier()
    model.classifier = nn.Sequential(nn.Linear(32, 8), nn.Linear(8, 2))
    return model


def other_layers(number):
    model = make_teacher("masked_lm")
    model.bert.encoder.layer = nn.ModuleList([*model.bert.encoder.layer, *model.bert.encoder.layer][:number])
    return model


def other_words():
    model = make_teacher("masked_lm")
    model.bert.embeddings.word_embeddings = nn.Embedding(200, 32)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (other_head, r"Missing key.* \"classifier\.bias\".*Unexpected key.* \"classifier\.0\..*own head"),
        (lambda: other_layers(1), r"Missing key.* \"bert\.encoder\.layer.*own config"),
        (lambda: other_layers(3), r"Unexpected key.* \"bert\.encoder\.layer.*own config"),
        (other_words, r"size mismatch for bert\.embeddings\.word_embeddings\.weight: .*\[200, 32\]"),
        (lambda: torch.compile(classifier()), r"=OptimizedModule is not a model .*model\._orig_mod"),
        (lambda: nn.DataParallel(classifier()), r"=DataParallel .*model\.module"),
    ],
)
def test_other_parameters_than_the_configs_and_wrappers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        to_student(make())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_of_half_precision_is_no_other_function(dtype):
    for model in (make_teacher(BertForPreTraining), make_teacher("question_answering")):
        assert to_student(model.to(dtype)).dtype == torch.float32
    encoder = BertModel(classifier().config).to(dtype)
    assert to_student(encoder, needs_head=False).dtype == torch.float32


def test_modes_of_modules_stay_as_they_were():
    model = make_teacher(BertForMaskedLM).train()
    model.bert.embeddings.eval()
    to_student(model)
    assert model.training
    assert not model.bert.embeddings.training


@pytest.mark.slow
@each("name", ARCHITECTURES)
def test_every_architecture_is_the_function_of_its_name(name):
    architecture = ARCHITECTURES[name]
    for head in architecture.heads:
        model = tiny_architecture_teacher(architecture, head).eval()
        model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output.flip(-1))
        with pytest.raises(ValueError, match="is not the function"):
            to_student(model)


def test_weights_whose_answers_overflow_are_refused():
    model = classifier()
    layer = model.bert.encoder.layer[0]
    for matrix in (layer.intermediate.dense, layer.output.dense):
        matrix.weight.data.fill_(1e18)
    with pytest.raises(
        ValueError, match="^teacher=BertForSequenceClassification gives answers .* not finite: its wei"
    ):
        to_student(model)
