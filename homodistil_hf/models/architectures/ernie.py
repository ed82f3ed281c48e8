"""ERNIE: BERT's layers and heads under another name, and where asked for a table of tasks."""

from .architecture import HIDDEN, Architecture, linear
from .bert import ATTENTION, LAYER, embeddings, heads_of_bert

_MODELING = f"{__package__}.modeling_homoernie"
_TASKS = "embeddings.task_type_embeddings.weight"
ERNIE = Architecture(
    name="ERNIE",
    model_type="ernie",
    modeling=_MODELING,
    prefix="ernie",
    encoder_name="ErnieModel",
    heads=heads_of_bert("Ernie", _MODELING, "ernie"),
    embeddings={**embeddings(), _TASKS: ("task_type_vocab_size", HIDDEN)},
    layer=LAYER,
    layers="encoder.layer",
    attention=ATTENTION,
    mlm_entries=("cls.predictions.transform",),
    absent=lambda config: () if config.use_task_id else (_TASKS,),
    pooler=linear("pooler.dense", HIDDEN, HIDDEN),
    surplus=("ernie.pooler.", "cls.seq_relationship."),
)
