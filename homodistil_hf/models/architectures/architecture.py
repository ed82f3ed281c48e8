"""The table of an architecture: its classes, parameters and properties; and the kinds of heads, common to all.

This file names no architecture. Classes are imported on first use, so `homodistil plan` doesn't load them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

PROJECTIONS = "projections"
"""Name under which the trainer attaches the projections student → teacher to the student."""

# Meanings of a dimension's indices; any other word is the configuration's name for the dimension's length.
HIDDEN, EMBEDDING, QUERY, VALUE, NEURON, HEAD = "hidden", "embedding", "query", "value", "neuron", "head"
QUERY_KEY_VALUE, GATE = "query_key_value", "gate"
"""Three blocks of heads behind each other, and two of neurons."""
KEY, ATTENDED, HEAD_CHANNEL = "key", "attended", "head_channel"
"""Where queries share keys and values, these are fewer: rows of keys, inputs of the output; and of one head alone."""

Shapes: TypeAlias = Mapping[str, tuple[str, ...]]
"""Parameter → the meaning of the indices of each of its dimensions."""


def linear(name: str, outputs: str, inputs: str, *, bias: bool = True) -> dict[str, tuple[str, ...]]:
    """Return the parameters of a linear layer."""
    return {f"{name}.weight": (outputs, inputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def norm(name: str, channels: str = HIDDEN) -> dict[str, tuple[str, ...]]:
    """Return the parameters of a LayerNorm."""
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


_ROWS = {"word": "vocab_size", "position": "max_position_embeddings", "token_type": "type_vocab_size"}
"""Table of embeddings → the meaning of its rows."""


def embeddings(*tables: str, channels: str = HIDDEN) -> Shapes:
    """Return the parameters of tables of embeddings, by their names in BERT, and of their LayerNorm."""
    named = {f"embeddings.{name}_embeddings.weight": (_ROWS[name], channels) for name in tables}
    return {**named, **norm("embeddings.LayerNorm", channels)}


def attention_of(names: tuple[str, str, str, str], *, bias: bool = True) -> Shapes:
    """Return the parameters of the linear modules query, key, value and output."""
    query, key, value, output = names
    return {
        **linear(query, QUERY, HIDDEN, bias=bias),
        **linear(key, QUERY, HIDDEN, bias=bias),
        **linear(value, VALUE, HIDDEN, bias=bias),
        **linear(output, HIDDEN, VALUE, bias=bias),
    }


def layer_of(attention: tuple[str, str, str, str], ffn: tuple[str, str], norms: tuple[str, str]) -> Shapes:
    """Return the parameters of a layer of two halves, each with a LayerNorm behind it, by the names of its modules."""
    return {
        **attention_of(attention),
        **norm(norms[0]),
        **{**linear(ffn[0], NEURON, HIDDEN), **linear(ffn[1], HIDDEN, NEURON), **norm(norms[1])},
    }


def biases(shapes: Shapes) -> set[str]:
    """Return the names of the biases among parameters."""
    return {name for name in shapes if name.endswith(".bias")}


@dataclass(frozen=True)
class HeadKind:
    """A kind of prediction, the same for all encoders.

    Args:
        name: its name in costs and tasks.
        auto_class: the Auto class of transformers that loads a model with such a head.
        pipeline: tag on the Hub.
        title: words for the model in a card.
        question: code that runs `model` on an example.
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


REPLACED_TOKENS = HeadKind(
    "replaced_tokens",
    "AutoModelForPreTraining",
    "feature-extraction",  # the Hub has no word for it
    "discriminator of replaced tokens",
    'print(model(**tokenizer("Paris is the capital of cheese.", return_tensors="pt")).logits > 0)  # out of place?',
)


@dataclass(frozen=True)
class ClassPair:
    """A class of transformers, and the students' class that derives from it.

    Args:
        stock_name: name of transformers' class.
        modeling: module of the student class.
    """

    stock_name: str
    modeling: str

    @property
    def student_name(self) -> str:
        """Name of the student class."""
        return f"Homo{self.stock_name}"

    @property
    def stock(self) -> Any:
        """Transformers' class."""
        return _imported("transformers", self.stock_name)

    @property
    def student(self) -> Any:
        """Our class."""
        return _imported(self.modeling, self.student_name)

    def class_called(self, name: str) -> Any:
        """Return the student class if that is its name, else the stock class, for a name in a `config.json`."""
        return self.student if name == self.student_name else self.stock


@dataclass(frozen=True)
class Head(ClassPair):
    """One head of an architecture: models that have it.

    Args:
        kind: its kind of prediction.
        shapes: its parameters, a pooler's included.
        untied: further parameters where embeddings and decoder are not tied.
    """

    kind: HeadKind
    shapes: Shapes = field(hash=False)
    untied: Shapes = field(hash=False)


LABELS = linear("classifier", "num_labels", HIDDEN)
ANSWERS = linear("qa_outputs", "num_labels", HIDDEN)


@dataclass(frozen=True)
class Architecture:
    """The classes and parameters of one architecture.

    Args:
        name: in cards and messages.
        model_type: the teacher's `config.model_type`.
        stock: beginning of the names of transformers' classes; student classes have `Homo` in front.
        masked_lm: parameters of the masked-LM head; None where the stock library has no such head.
        classifier: the same of the head that classifies sequences, a pooler's included.
        embeddings: all encoder parameters outside the layers.
        pooler: further parameters of a model without a head.
        layer: one layer's parameters, with names relative to the layer; of attention query, key, value and output in
            this order.
        layers: path of the list of layers in the encoder.
        untied: further parameters where the decoder of masked words is not their table.
        labels: parameters of the head that classifies tokens; None where the stock library has no such head.
        answers: the same of the head that marks answers.
        replaced_tokens: the same of the head that finds replaced tokens.
        file: end of the name of the student classes' module, where that is not the model type.
        also_loaded: further stock classes that are read with the first head, such as BertForPreTraining.
        surplus: prefixes of teacher weights besides a pooler's that `to_student` drops where the student lacks them.
        width_names: usual name of a setting (`intermediate_size`, `hidden_act`, …) → the stock configuration's name,
            if it has another.
        absent: function of a configuration; returns parameters of these tables that it switches off, such as biases.
        not_in_first_layer: parameters that the first layer doesn't have.
        sizes: name of a dimension in the shapes that is no field of the configuration → function of a configuration;
            returns its length.
        rotates: function of a configuration; returns whether `rotate_heads` may give heads a new basis before pruning
            (pruning/rotation.py). Not about rotary positions.
        first_position: configuration → row of a text's first token in the table of positions.
        is_rotary: whether attention uses rotary position embeddings.
        has_free_heads: whether the stock configuration has a `head_dim`, so that heads needn't fill the hidden size.
        heads_divide: whether it wants their number to divide the hidden size all the same.
        queries_per_key: configuration → query heads that share a key and a value head, and leave together.
        rotary_kinds: function of a configuration; returns each layer's type of attention. Layers of one type share
            their frequencies, so they lose the same pairs of channels. Empty if no pair may be dropped (scaled
            frequencies), or without rotary positions.
        is_pre_norm: whether hidden states are those of the residual stream, not the output of a LayerNorm.
        takes_added_masks: whether attention masks may be floats to add to scores, `(batch, 1, 1, tokens)`.
        scores_have_positions: whether attention scores depend on positions by a term of their own or a rotation, so
            that `attention_weight` can't compare them.
        reads_before_padding: whether the class of a text is read at the last token that isn't padding by its id.
        dropouts: names of the configuration's dropout rates.
        keeps_first_layer: configuration → whether the first layer is built unlike the others, so that it must stay.
    """

    name: str
    model_type: str
    stock: str
    masked_lm: Shapes | None
    classifier: Shapes
    embeddings: Shapes
    layer: Shapes
    layers: str
    pooler: Shapes = field(default_factory=dict)
    untied: Shapes = field(default_factory=dict)
    labels: Shapes | None = field(default_factory=lambda: LABELS)
    answers: Shapes | None = field(default_factory=lambda: ANSWERS)
    replaced_tokens: Shapes | None = None
    file: str = ""
    also_loaded: tuple[str, ...] = ()
    surplus: tuple[str, ...] = ()
    width_names: Mapping[str, str] = field(default_factory=dict)
    absent: Callable[[PreTrainedConfig], Collection[str]] = lambda config: ()
    not_in_first_layer: Shapes = field(default_factory=dict)
    sizes: Mapping[str, Callable[[PreTrainedConfig], int]] = field(default_factory=dict)
    rotates: Callable[[PreTrainedConfig], bool] = lambda config: True
    first_position: Callable[[PreTrainedConfig], int] = lambda config: 0
    is_rotary: bool = False
    has_free_heads: bool = False
    heads_divide: bool = False
    queries_per_key: Callable[[PreTrainedConfig], int] = lambda config: 1
    rotary_kinds: Callable[[PreTrainedConfig], tuple[str, ...]] = lambda config: ()
    is_pre_norm: bool = False
    takes_added_masks: bool = True
    scores_have_positions: bool = False
    reads_before_padding: bool = False
    dropouts: tuple[str, ...] = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    keeps_first_layer: Callable[[PreTrainedConfig], bool] = lambda config: False

    @property
    def student_type(self) -> str:
        """The students' `config.model_type`."""
        return f"homo{self.model_type}"

    @property
    def modeling(self) -> str:
        """Module of the student classes; its file travels in compact exports."""
        return f"{__package__}.modeling_homo{self.file or self.model_type}"

    @cached_property
    def heads(self) -> tuple[Head, ...]:
        """The heads that teacher and student may have; the first is taken where a configuration names no class."""
        shapes = {
            MASKED_LM: self.masked_lm,
            SEQUENCE_CLASSIFICATION: self.classifier,
            TOKEN_CLASSIFICATION: self.labels,
            QUESTION_ANSWERING: self.answers,
            REPLACED_TOKENS: self.replaced_tokens,
        }
        return tuple(
            Head(
                f"{self.stock}{kind.auto_class.removeprefix('AutoModel')}",
                self.modeling,
                kind,
                found,
                self.untied if kind is MASKED_LM else {},
            )
            for kind, found in shapes.items()
            if found is not None
        )

    @cached_property
    def heads_by_name(self) -> dict[str, Head]:
        """Class name → its head: stock classes, then student classes."""
        stock = dict.fromkeys(self.also_loaded, self.heads[0]) | {head.stock_name: head for head in self.heads}
        return stock | {head.student_name: head for head in self.heads}

    @property
    def shares_heads(self) -> bool:
        """Whether a table outside the layers has a column for each head, so all layers keep the same heads."""
        return any(HEAD in dims for dims in self.embeddings.values())

    @property
    def is_gated(self) -> bool:
        """Whether an FFN has two matrices before its neurons."""
        rows = [dims[0] for dims in self.layer.values() if dims[1:] == (HIDDEN,)]
        return GATE in rows or rows.count(NEURON) == 2

    @property
    def config(self) -> ClassPair:
        """The configurations."""
        return ClassPair(f"{self.stock}Config", self.modeling)

    @property
    def encoder(self) -> ClassPair:
        """The models without a head."""
        return ClassPair(f"{self.stock}Model", self.modeling)

    @property
    def auto_classes(self) -> dict[str, type]:
        """Auto class of transformers → the student class that it loads."""
        return {
            "AutoConfig": self.config.student,
            "AutoModel": self.encoder.student,
            **{head.kind.auto_class: head.student for head in self.heads},
        }

    @property
    def modeling_files(self) -> tuple[Path, ...]:
        """The files of the student classes that travel in compact exports, the architecture's own first."""
        own = Path(__file__).with_name(f"{self.modeling.rpartition('.')[2]}.py")
        return own, Path(__file__).with_name("modeling_layerwise.py")

    @property
    def auto_map(self) -> dict[str, str]:
        """`auto_map` in the `config.json` of a compact export: Auto class → module and class."""
        stem = self.modeling_files[0].stem
        return {name: f"{stem}.{found.__name__}" for name, found in self.auto_classes.items()}

    def size_of(self, config: PreTrainedConfig, what: str) -> int:
        """Return the length of a dimension that is no width."""
        return self.sizes[what](config) if what in self.sizes else getattr(config, what)

    def embedding_size(self, config: PreTrainedConfig) -> int | None:
        """Return the channels of embeddings that are projected to the hidden size; None without a projection."""
        size = getattr(config, "embedding_size", None)
        # of equal sizes the stock class leaves the projection out
        is_projected = any(EMBEDDING in dims for dims in self.embeddings.values()) and size != config.hidden_size
        return size if is_projected else None

    def named(self, width: str) -> str:
        """Return the configuration's name for a width."""
        return self.width_names.get(width, width)

    def shapes(self, model: PreTrainedModel) -> dict[str, tuple[tuple[str, ...], int | None]]:
        """Return every parameter of a model → the meanings of its dimensions, and its layer or None.

        A model without a head has no prefix, and a pooler.
        """
        head = self.heads_by_name.get(type(model).__name__)
        prefix = f"{model.base_model_prefix}." if head else ""
        found: dict[str, tuple[tuple[str, ...], int | None]]
        found = {f"{prefix}{name}": (dims, None) for name, dims in self.embeddings.items()}
        found |= {
            f"{prefix}{self.layers}.{index}.{name}": (dims, index)
            for index in range(model.config.num_hidden_layers)
            for name, dims in self.layer.items()
        }
        of_head = {**head.shapes, **head.untied} if head else self.pooler
        return found | {name: (dims, None) for name, dims in of_head.items()}

    def attention_linears(self, model: PreTrainedModel, layer: int) -> list[Any]:
        """Return the linear modules of a layer's attention, of a stock model or student: query, key, value, output."""
        # matrices of attention, the first four; fewer where one holds several
        parts = {QUERY, KEY, VALUE, ATTENDED}
        names = [name for name, dims in self.layer.items() if len(dims) == 2 and parts & {*dims}][:4]
        if len(names) < 4 or self.queries_per_key(model.config) > 1:
            raise ValueError(
                f"this {self.model_type} has queries, keys and values in one matrix, or fewer keys than queries: they "
                "can't be compared or rotated; choose a method and loss weights without attention"
            )
        module = model.base_model.get_submodule(f"{self.layers}.{layer}")
        return [module.get_submodule(name.removesuffix(".weight")) for name in names]

    def mlm_entry(self, model: PreTrainedModel) -> Any:
        """Return the first module of a model's masked-LM head, which reads the encoder's last states."""
        # the table begins with it; a configuration may choose among heads
        modules = dict(model.named_modules())
        names = (name.rpartition(".")[0] for name in self.masked_lm or ())
        return next(modules[name] for name in names if name in modules)

    def filters(self, model: PreTrainedModel, layer: int) -> Any:
        """Return the second linear module of a layer's FFN; each column of its weight is a neuron's filter."""
        # the one matrix of a layer whose inputs are neurons
        (name,) = (name for name, dims in self.layer.items() if dims[1:] == (NEURON,))
        return model.base_model.get_submodule(f"{self.layers}.{layer}.{name.removesuffix('.weight')}")


def _imported(module: str, name: str) -> Any:
    return getattr(import_module(module), name)
