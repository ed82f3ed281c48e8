"""What the package has to know of an architecture, and what heads are called in any; no architecture is named here."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

PROJECTIONS = "projections"
"""Name under which the trainer attaches the projections student → teacher to the student."""


@dataclass(frozen=True)
class HeadKind:
    """What a head predicts, whatever encoder it sits on.

    Args:
        name: as costs and tasks call it.
        auto_class: of transformers, that loads a model with such a head.
        pipeline: tag on the Hub.
        title: what a model card calls the model.
        question: code that asks `model` something.
    """

    name: str
    auto_class: str
    pipeline: str
    title: str
    question: str


MASKED_LM = HeadKind(
    "masked_lm",
    "AutoModelForMaskedLM",
    "fill-mask",
    "masked-language model",
    'print(pipeline("fill-mask", model, tokenizer=tokenizer)(f"Paris is the {tokenizer.mask_token} of France."))',
)

SEQUENCE_CLASSIFICATION = HeadKind(
    "sequence_classification",
    "AutoModelForSequenceClassification",
    "text-classification",
    "sequence classifier",
    'print(pipeline("text-classification", model, tokenizer=tokenizer)("A fine piece of work."))',
)

TOKEN_CLASSIFICATION = HeadKind(
    "token_classification",
    "AutoModelForTokenClassification",
    "token-classification",
    "token classifier",
    'print(pipeline("token-classification", model, tokenizer=tokenizer)("Ada Lovelace lived in London."))',
)

QUESTION_ANSWERING = HeadKind(
    "question_answering",
    "AutoModelForQuestionAnswering",
    "question-answering",
    "question-answering model",
    # transformers 5 has no question-answering pipeline.
    'inputs = tokenizer("Where did she live?", "Ada Lovelace lived in London.", return_tensors="pt")\n'
    "start, end = (logits.argmax() for logits in model(**inputs).to_tuple()[:2])\n"
    'print(tokenizer.decode(inputs["input_ids"][0, start : end + 1]))',
)


@dataclass(frozen=True)
class Head:
    """One head of a family.

    Args:
        kind: what it predicts.
        stock: transformers' class.
        student: ours.
    """

    kind: HeadKind
    stock: type[PreTrainedModel]
    student: type[PreTrainedModel]

    def class_called(self, name: str) -> type[PreTrainedModel]:
        """The class that a `config.json` means: the student's where that is its name, else the stock class."""
        return self.student if name == self.student.__name__ else self.stock


@dataclass(frozen=True)
class EncoderFamily:
    """The classes and parameter paths of one architecture; `{l}` stands for the layer.

    Args:
        model_type: the teacher's `config.model_type`.
        stock_config: transformers' configuration; that of the students is derived from it.
        student_config: ours.
        stock_encoder: transformers' model without a head.
        student_encoder: ours.
        heads: what teachers and students can predict, the default first.
        also_loaded: other stock classes → the head as which they are loaded.
        refused: stock classes that no student exists for → what to do.
        surplus: prefixes of a teacher's parameters that a student may lack.
        encoder_stack: the module whose `layer` lists the layers.
        self_attention: the module inside a layer whose widths can be set.
        hidden: `(pattern, dim)` of everything that has a hidden channel; patterns are whole-name regular expressions.
        query: parameters whose rows are query channels, the weight first.
        key: parameters whose rows are key channels, the weight first.
        value: parameters whose rows are value channels, the weight first.
        attention_output: parameters whose columns are value channels.
        ffn_rows: parameters whose rows are FFN neurons.
        ffn_columns: parameters whose columns are FFN neurons.
        mlm_transform: the module between the encoder and the masked-LM decoder.
        unpruned: patterns of parameters without any unit (vocabulary and label biases).
        earlier_code: SHA-256 of modelling files that earlier versions exported, which may be run as well.
    """

    model_type: str
    stock_config: type[PreTrainedConfig]
    student_config: type[PreTrainedConfig]
    stock_encoder: type[PreTrainedModel]
    student_encoder: type[PreTrainedModel]
    heads: tuple[Head, ...]
    also_loaded: dict[str, Head]
    refused: dict[str, str]
    surplus: tuple[str, ...]
    encoder_stack: type[Any]
    self_attention: type[Any]
    hidden: tuple[tuple[str, int], ...]
    query: tuple[str, ...]
    key: tuple[str, ...]
    value: tuple[str, ...]
    attention_output: tuple[str, ...]
    ffn_rows: tuple[str, ...]
    ffn_columns: tuple[str, ...]
    mlm_transform: str
    unpruned: tuple[str, ...]
    earlier_code: tuple[str, ...] = ()

    def knows(self, model_type: object) -> bool:
        """Whether a `config.json` of this model type is one of its teachers' or students'."""
        return model_type in (self.model_type, self.student_config.model_type)

    @property
    def heads_by_name(self) -> dict[str, Head]:
        """Class name → its head: stock classes, then those of the students."""
        stock = {head.stock.__name__: head for head in self.heads}
        return self.also_loaded | stock | {head.student.__name__: head for head in self.heads}

    @property
    def auto_classes(self) -> dict[str, type]:
        """Auto class of transformers → the student's class that it loads."""
        return {
            "AutoConfig": self.student_config,
            "AutoModel": self.student_encoder,
            **{head.kind.auto_class: head.student for head in self.heads},
        }

    @property
    def modeling_file(self) -> Path:
        """The file of the students' classes, which travels in compact exports."""
        return Path(inspect.getfile(self.student_config))

    @property
    def auto_map(self) -> dict[str, str]:
        """What `config.json` of a compact export says of its modelling file."""
        return {name: f"{self.modeling_file.stem}.{found.__name__}" for name, found in self.auto_classes.items()}

    def attention(self, model: PreTrainedModel, layer: int) -> list[Any]:
        """The linear modules of a layer's attention in a student: query, key, value and output."""
        weights = (self.query[0], self.key[0], self.value[0], self.attention_output[0])
        return [model.get_submodule(name.format(l=layer).removesuffix(".weight")) for name in weights]
