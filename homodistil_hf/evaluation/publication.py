"""From a summary of evaluations to what an export says about itself: `facts.json` and the model card.

The section is called `benchmarks`. The files that `verify.py` checks by digest are not touched.
"""

import logging
from collections.abc import Mapping
from typing import Any

from ..export.card import render_card
from ..export.facts import BENCHMARKS, CARD_FILE, read_export_facts, run_facts, write_facts
from ..files.folders import write_text
from .evaluated_model import EvaluatedModel

logger = logging.getLogger(__name__)


_OF_THE_FILE = ("format", "model")


def publish(evaluated: EvaluatedModel, summary: Mapping[str, Any]) -> None:
    """Write the results of an export into its facts and its card; nothing for models that are no export of ours.

    What the facts tell of other tasks stays: it is of the same weights, as a new export has new facts.

    Args:
        evaluated: what was evaluated.
        summary: what [`Records.summarize`] returned.
    """
    if evaluated.export is None:
        return
    facts = read_export_facts(evaluated.export)
    told = facts.get(BENCHMARKS, {})
    section = {**told, **summary, "tasks": {**told.get("tasks", {}), **summary["tasks"]}}
    section = {name: value for name, value in section.items() if name not in _OF_THE_FILE}
    published = facts | run_facts({BENCHMARKS: section})
    if published == facts:
        return
    write_facts(evaluated.export, published)
    write_text(evaluated.export / CARD_FILE, render_card(published))
    logger.debug("%s: facts.json and the card tell of the evaluations", evaluated.export)
