"""What the package has to know of an architecture, and what heads are called in any; no architecture is named here.

Models' classes are known by name and imported when they are asked for: who plans a student needs none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

PROJECTIONS = "projections"
"""Name under which the trainer attaches the projections student → teacher to the student."""

# What an index of a dimension is; any other word is the configuration's name for the dimension's length.
HIDDEN, EMBEDDING, QUERY, VALUE, NEURON, HEAD = "hidden", "embedding", "query", "value", "neuron", "head"
QUERY_KEY_VALUE, GATE = "query_key_value", "gate"
"""Three blocks of heads, and two of neurons, behind each other."""

Shapes: TypeAlias = Mapping[str, tuple[str, ...]]
"""Parameter → what the indices of each of its dimensions are."""


def linear(name: str, outputs: str, inputs: str) -> dict[str, tuple[str, ...]]:
    """The parameters of a linear layer."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, channels: str = HIDDEN) -> dict[str, tuple[str, ...]]:
    """The parameters of a LayerNorm."""
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def biases(shapes: Shapes) -> set[str]:
    """Names of the biases among parameters."""
    return {name for name in shapes if name.endswith(".bias")}


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


REPLACED_TOKENS = HeadKind(
    "replaced_tokens",
    "AutoModelForPreTraining",
    "feature-extraction",  # the Hub has no word for it
    "discriminator of replaced tokens",
    'print(model(**tokenizer("Paris is the capital of cheese.", return_tensors="pt")).logits > 0)  # out of place?',
)


@dataclass(frozen=True)
class Head:
    """One head of an architecture.

    Args:
        kind: what it predicts.
        stock_name: transformers' class.
        student_name: ours.
        modeling: module of our class.
        shapes: its parameters, a pooler's included.
        untied: those that it has as well where embeddings and decoder are not tied.
    """

    kind: HeadKind
    stock_name: str
    student_name: str
    modeling: str
    shapes: Shapes = field(default_factory=dict, hash=False)
    untied: Shapes = field(default_factory=dict, hash=False)

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


LABELS = linear("classifier", "num_labels", HIDDEN)
ANSWERS = linear("qa_outputs", "num_labels", HIDDEN)


def heads(
    name: str,
    modeling: str,
    *,
    masked_lm: Shapes,
    untied: Shapes,
    classifier: Shapes,
    labels: Shapes = LABELS,
    answers: Shapes = ANSWERS,
) -> tuple[Head, ...]:
    """The four heads of an architecture, masked language first.

    Args:
        name: what its stock classes begin with.
        modeling: module of the students' classes.
        masked_lm: parameters of the masked-LM head.
        untied: those that it has as well where its decoder is not the table of words.
        classifier: parameters of the head that classifies sequences, a pooler's included.
        labels: of the one that classifies tokens.
        answers: of the one that marks answers.
    """
    shapes = {
        MASKED_LM: masked_lm,
        SEQUENCE_CLASSIFICATION: classifier,
        TOKEN_CLASSIFICATION: labels,
        QUESTION_ANSWERING: answers,
    }
    stock = {kind: f"{name}For{kind.auto_class.removeprefix('AutoModelFor')}" for kind in shapes}
    return tuple(
        Head(kind, stock[kind], f"Homo{stock[kind]}", modeling, found, untied if kind is MASKED_LM else {})
        for kind, found in shapes.items()
    )


@dataclass(frozen=True)
class Architecture:
    """The classes and parameters of one architecture.

    Args:
        name: for people.
        model_type: the teacher's `config.model_type`.
        stock_config: transformers' configuration; that of the students is derived from it.
        modeling: module of the students' classes, whose file travels in compact exports.
        prefix: of the encoder's parameters in a model with a head.
        encoder_name: transformers' model without a head; ours has `Homo` before it, as all our classes have.
        heads: what teachers and students can predict, the default first.
        embeddings: parameters before the first layer and behind the last one.
        pooler: parameters that a model without a head has besides.
        layer: parameters of a layer, named from the layer on.
        layers: the list of layers.
        attention: a layer's linear modules: query, key, value and output; None where they are not apart.
        mlm_entries: first module of the masked-LM head, which the encoder's last states go into; of several heads that
            a configuration chooses from, each one's.
        also_loaded: other stock classes → the head as which they are loaded.
        refused: stock classes with a head that no student exists for → what to do.
        surplus: prefixes of a teacher's parameters that a student may lack.
        width_names: `hidden_size`, … → the stock configuration's word for it, where that is another.
        absent: of a configuration, parameters of the tables that its models don't have.
        not_in_first_layer: parameters of a layer that the first one lacks.
        sizes: other word for a dimension's length → that length by a configuration.
        rotates: whether, by a configuration, the channels of heads may be rotated.
        shares_heads: whether a head has a place of its own that all layers share, so that all keep the same ones.
        first_position: row of the table of positions that the first token of a text has.
        is_rotary: whether positions turn the channels of heads in pairs, each with a place in the teacher's head.
        rotary_kinds: by a configuration, the kind of each layer, where layers of a kind can lose pairs together.
        is_gated: whether an FFN has two matrices before its neurons.
        is_pre_norm: whether hidden states are those of the residual stream, not behind a LayerNorm.
        takes_added_masks: whether attention masks may come as what is added to scores, `(batch, 1, 1, tokens)`.
        scores_have_positions: whether attention adds something to the products of queries and keys.
        dropouts: the configuration's rates of dropout.
    """

    name: str
    model_type: str
    stock_config: type[PreTrainedConfig]
    modeling: str
    prefix: str
    encoder_name: str
    heads: tuple[Head, ...]
    embeddings: Shapes
    layer: Shapes
    layers: str
    attention: tuple[str, str, str, str] | None
    mlm_entries: tuple[str, ...]
    pooler: Shapes = field(default_factory=dict)
    also_loaded: Mapping[str, Head] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    surplus: tuple[str, ...] = ()
    width_names: Mapping[str, str] = field(default_factory=dict)
    absent: Callable[[PreTrainedConfig], Collection[str]] = lambda config: ()
    not_in_first_layer: Shapes = field(default_factory=dict)
    sizes: Mapping[str, Callable[[PreTrainedConfig], int]] = field(default_factory=dict)
    rotates: Callable[[PreTrainedConfig], bool] = lambda config: True
    shares_heads: bool = False
    first_position: Callable[[PreTrainedConfig], int] = lambda config: 0
    is_rotary: bool = False
    rotary_kinds: Callable[[PreTrainedConfig], tuple[str, ...]] = lambda config: ()
    is_gated: bool = False
    is_pre_norm: bool = False
    takes_added_masks: bool = True
    scores_have_positions: bool = False
    dropouts: tuple[str, ...] = ("hidden_dropout_prob", "attention_probs_dropout_prob")

    @property
    def student_type(self) -> str:
        """The students' `config.model_type`."""
        return f"homo{self.model_type}"

    def knows(self, model_type: object) -> bool:
        """Whether a `config.json` of this model type is one of its teachers' or students'."""
        return model_type in (self.model_type, self.student_type)

    @property
    def heads_by_name(self) -> dict[str, Head]:
        """Class name → its head: stock classes, then those of the students."""
        stock = {head.stock_name: head for head in self.heads}
        return {**self.also_loaded, **stock} | {head.student_name: head for head in self.heads}

    @property
    def student_config(self) -> type[PreTrainedConfig]:
        """The students' configuration."""
        return _imported(self.modeling, f"Homo{self.stock_config.__name__}")

    @property
    def stock_encoder(self) -> type[PreTrainedModel]:
        """Transformers' model without a head."""
        return _imported("transformers", self.encoder_name)

    @property
    def student_encoder(self) -> type[PreTrainedModel]:
        """The student without a head."""
        return _imported(self.modeling, f"Homo{self.encoder_name}")

    @property
    def auto_classes(self) -> dict[str, type]:
        """Auto class of transformers → the student's class that it loads."""
        return {
            "AutoConfig": self.student_config,
            "AutoModel": self.student_encoder,
            **{head.kind.auto_class: head.student for head in self.heads},
        }

    @property
    def modeling_files(self) -> tuple[Path, ...]:
        """The files of the students' classes, which travel in compact exports, theirs alone first."""
        own = Path(__file__).with_name(f"{self.modeling.rpartition('.')[2]}.py")
        return own, Path(__file__).with_name("modeling_layerwise.py")

    @property
    def auto_map(self) -> dict[str, str]:
        """What `config.json` of a compact export says of its modelling file."""
        stem = self.modeling_files[0].stem
        return {name: f"{stem}.{found.__name__}" for name, found in self.auto_classes.items()}

    def max_tokens(self, config: PreTrainedConfig) -> int:
        """Tokens of the longest text that a model has positions for."""
        return config.max_position_embeddings - self.first_position(config)

    def size_of(self, config: PreTrainedConfig, what: str) -> int:
        """The length of a dimension that is no width."""
        return self.sizes[what](config) if what in self.sizes else getattr(config, what)

    def embedding_size(self, config: PreTrainedConfig) -> int | None:
        """Channels of embeddings that are projected to the hidden size; None where they have as many as that."""
        size = getattr(config, "embedding_size", None)
        is_projected = any(EMBEDDING in dims for dims in self.embeddings.values()) and size != config.hidden_size
        return size if is_projected else None

    def num_neurons(self, widths: PreTrainedConfig) -> int:
        """FFN neurons of a layer, by its view of a configuration."""
        return getattr(widths, self.named("intermediate_size"))

    def named(self, width: str) -> str:
        """What its configuration calls a width."""
        return self.width_names.get(width, width)

    def prefix_of(self, head: Head | None) -> str:
        """What the names of the encoder's parameters begin with; nothing in a model without a head."""
        return f"{self.prefix}." if head else ""

    def shapes(self, num_layers: int, head: Head | None) -> dict[str, tuple[tuple[str, ...], int | None]]:
        """Every parameter of a model → what its dimensions are, and its layer.

        Args:
            num_layers: of the encoder.
            head: None for a model without one, whose parameters have no prefix, and a pooler.
        """
        prefix = self.prefix_of(head)
        found: dict[str, tuple[tuple[str, ...], int | None]]
        found = {f"{prefix}{name}": (dims, None) for name, dims in self.embeddings.items()}
        found |= {
            f"{prefix}{self.layers}.{index}.{name}": (dims, index)
            for index in range(num_layers)
            for name, dims in self.layer.items()
        }
        of_head = {**head.shapes, **head.untied} if head else self.pooler
        return found | {name: (dims, None) for name, dims in of_head.items()}

    def attention_linears(self, model: PreTrainedModel, layer: int) -> list[Any]:
        """The linear modules of a layer's attention, of a stock model or a student: query, key, value and output."""
        if self.attention is None:
            raise ValueError(
                f"a {self.model_type} has queries, keys and values in one matrix, which can't be compared or rotated; "
                "choose a method and loss weights without attention"
            )
        module = model.base_model.get_submodule(f"{self.layers}.{layer}")
        return [module.get_submodule(name) for name in self.attention]

    def mlm_entry(self, model: PreTrainedModel) -> Any:
        """The first module of a model's masked-LM head."""
        modules = dict(model.named_modules())
        return next(modules[name] for name in self.mlm_entries if name in modules)

    def filters(self, model: PreTrainedModel, layer: int) -> Any:
        """The second linear module of a layer's FFN; a column each is a neuron's filter."""
        (name,) = (name for name, dims in self.layer.items() if dims[1:] == (NEURON,))
        return model.base_model.get_submodule(f"{self.layers}.{layer}.{name.removesuffix('.weight')}")


def _imported(module: str, name: str) -> Any:
    return getattr(import_module(module), name)
