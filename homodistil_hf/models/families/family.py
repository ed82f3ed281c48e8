"""What the package has to know of an architecture, and what heads are called in any; no architecture is named here.

Models' classes are known by name and imported when they are asked for: who plans a student needs none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        stock_name: transformers' class.
        student_name: ours.
        modeling: module of our class.
    """

    kind: HeadKind
    stock_name: str
    student_name: str
    modeling: str

    @property
    def stock(self) -> type[PreTrainedModel]:
        """Transformers' class."""
        return _imported("transformers", self.stock_name)

    @property
    def student(self) -> type[PreTrainedModel]:
        """Our class."""
        return _imported(self.modeling, self.student_name)

    def class_called(self, name: str) -> type[PreTrainedModel]:
        """The class that a `config.json` means: the student's where that is its name, else the stock class."""
        return self.student if name == self.student_name else self.stock


@dataclass(frozen=True)
class EncoderFamily:
    """The classes and parameter paths of one architecture; `{l}` stands for the layer.

    Args:
        model_type: the teacher's `config.model_type`.
        student_type: that of its students.
        stock_config: transformers' configuration; that of the students is derived from it.
        modeling: module of the students' classes, whose file travels in compact exports.
        student_config_name: its configuration.
        encoder_name: transformers' model without a head.
        student_encoder_name: ours.
        heads: what teachers and students can predict, the default first.
        also_loaded: other stock classes → the head as which they are loaded.
        refused: stock classes that no student exists for → what to do.
        surplus: prefixes of a teacher's parameters that a student may lack.
        encoder_stack_name: our module whose `layer` lists the layers.
        self_attention_name: our module inside a layer whose widths can be set.
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
    student_type: str
    stock_config: type[PreTrainedConfig]
    modeling: str
    student_config_name: str
    encoder_name: str
    student_encoder_name: str
    heads: tuple[Head, ...]
    also_loaded: dict[str, Head]
    refused: dict[str, str]
    surplus: tuple[str, ...]
    encoder_stack_name: str
    self_attention_name: str
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
        return model_type in (self.model_type, self.student_type)

    @property
    def heads_by_name(self) -> dict[str, Head]:
        """Class name → its head: stock classes, then those of the students."""
        stock = {head.stock_name: head for head in self.heads}
        return self.also_loaded | stock | {head.student_name: head for head in self.heads}

    @property
    def student_config(self) -> type[PreTrainedConfig]:
        """The students' configuration."""
        return _imported(self.modeling, self.student_config_name)

    @property
    def stock_encoder(self) -> type[PreTrainedModel]:
        """Transformers' model without a head."""
        return _imported("transformers", self.encoder_name)

    @property
    def student_encoder(self) -> type[PreTrainedModel]:
        """The student without a head."""
        return _imported(self.modeling, self.student_encoder_name)

    @property
    def encoder_stack(self) -> type[Any]:
        """The module whose `layer` lists the layers."""
        return _imported(self.modeling, self.encoder_stack_name)

    @property
    def self_attention(self) -> type[Any]:
        """The module inside a layer whose widths can be set."""
        return _imported(self.modeling, self.self_attention_name)

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
        return Path(__file__).with_name(f"{self.modeling.rpartition('.')[2]}.py")

    @property
    def auto_map(self) -> dict[str, str]:
        """What `config.json` of a compact export says of its modelling file."""
        return {name: f"{self.modeling_file.stem}.{found.__name__}" for name, found in self.auto_classes.items()}

    def attention(self, model: PreTrainedModel, layer: int) -> list[Any]:
        """The linear modules of a layer's attention in a student: query, key, value and output."""
        weights = (self.query[0], self.key[0], self.value[0], self.attention_output[0])
        return [model.get_submodule(name.format(l=layer).removesuffix(".weight")) for name in weights]


def _imported(module: str, name: str) -> Any:
    return getattr(import_module(module), name)
