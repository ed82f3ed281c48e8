"""The model card of a further pre-trained checkpoint: its origin, its settings, the paper of the method."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from ...export.card import card_table, code_span, fill_card
from ...files.provenance import public_name, version_facts

_SETTINGS = (
    *("num_rounds", "distillation_weight", "compared_states", "mlm_probability", "learning_rate", "max_steps"),
    *("num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "weight_decay", "seed"),
)
_HOW = """The initial weights were further pre-trained on a target corpus with their masked objective; then, {rounds},
training started again from the initial weights on the same corpus, and the squared distance to the state ({states}) of
the model before was added to the masked loss, times {weight}. Fine-tune it like the model it was made from, or distil
it. The method is that of

```bibtex
@inproceedings{{lee2023selfdistillation,
  title     = {{Self-Distillation for Further Pre-training of Transformers}},
  author    = {{Lee, Seanie and Kang, Minki and Lee, Juho and Hwang, Sung Ju and Kawaguchi, Kenji}},
  booktitle = {{International Conference on Learning Representations}},
  year      = {{2023}},
  url       = {{https://arxiv.org/abs/2210.02871}},
}}
```"""


def further_pretraining_card(architecture: str, source: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Write the card, markdown with its YAML header.

    Args:
        architecture: class of the checkpoint.
        source: `model`: Hub name or folder of the initial weights; the card names the last part of a folder.
        settings: of the run, by name.
    """
    named, num_rounds = public_name(str(source["model"])), settings["num_rounds"]
    unread = "num_train_epochs" if settings["max_steps"] > 0 else "max_steps"
    return fill_card(
        ModelCardData(
            base_model=named if named == source["model"] else None,
            library_name="transformers",
            tags=["further-pretraining", "self-distillation"],
        ),
        version_facts(),
        title=f"{named.rpartition('/')[2]}, further pre-trained with self-distillation",
        summary=f"{code_span(architecture)}, made from {code_span(named)} without a change of its shape.",
        how=_HOW.format(
            rounds="once" if num_rounds == 1 else f"{num_rounds} times",
            states="of [CLS]" if settings["compared_states"] == "first" else "of each token",
            weight=settings["distillation_weight"],
        ),
        settings=card_table(
            ("setting", "value"), [(f"`{name}`", settings[name]) for name in _SETTINGS if name != unread]
        ),
    )
