"""An architecture and its heads are found by all their names."""

from transformers import BertConfig

from homodistil_hf.models.architectures import ARCHITECTURES, HEADS, MODEL_TYPES, architecture_of, config_class
from homodistil_hf.models.architectures.bert import BERT
from homodistil_hf.models.architectures.modeling_homobert import HomoBertConfig


def test_an_architecture_is_found_by_both_of_its_model_types():
    assert {name: config_class(name) for name in MODEL_TYPES[:2]} == {"bert": BertConfig, "homobert": HomoBertConfig}
    assert architecture_of(BertConfig()) is architecture_of(HomoBertConfig()) is BERT is ARCHITECTURES["bert"]


def test_a_head_is_found_by_both_of_its_classes():
    for head in BERT.heads:
        for found in (head.stock, head.student):
            assert HEADS[found.__name__] is head
            assert head.class_called(found.__name__) is found
    pre_training = HEADS["BertForPreTraining"]
    assert pre_training is BERT.heads[0]
    assert pre_training.class_called("BertForPreTraining") is BERT.heads[0].stock
