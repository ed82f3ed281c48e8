"""The text of a model card: its template filled with the facts of an export, and no number that they lack."""

import json
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..files.strict_json import is_int, is_number
from ..models.architectures import ARCHITECTURES, HEADS
from ..models.architectures.architecture import Architecture, HeadKind
from ..models.cost import COSTS
from ..tables import markdown_table
from .facts import BENCHMARKS, CARD_SECTION

UNKNOWN_LICENCE = "unknown"
_TEMPLATE_FILE = "MODEL_CARD_TEMPLATE.md"
_COST_LABELS = {
    "num_parameters": "parameters",
    "num_encoder_parameters": "parameters without the head",
    "encoder_macs": "encoder multiply–accumulates a token",
    "size_bytes": "weights, bytes",
}

_NAMESAKE = "HomoDistil, which `homodistil_hf` is named after, is the method of"
"""Begins what is said of the paper where nothing of it is known to be in the student."""

_METRIC_LABELS = {
    "kl": "held-out KL to the teacher, nats a prediction",
    "mlm_loss": "held-out masked-LM loss, nats a token",
    "mlm_accuracy": "held-out masked-LM accuracy",
    "agreement": "share of the teacher's top predictions",
    "pseudo_perplexity": "pseudo-perplexity, each token masked in turn",
}

_WIDTH_LABELS = {
    "num_attention_heads": "heads",
    "head_dim": "channels a head",
    "intermediate_size": "FFN neurons",
}


@dataclass(frozen=True)
class MethodCard:
    """What a card says of a training method; exports carry it in their facts.

    Args:
        student: name of such a student, in front of "of" and the teacher's name.
        made: ends the sentence "a BERT of 6 layers that was …"; `{teacher}` is the teacher's place.
        how: the paragraph on how it was made.
        paper: what HomoDistil's paper has to do with it, in front of the citation.
        tags: words for the card's header.
    """

    student: str
    made: str
    how: str
    paper: str = f"This student was trained by another method; {_NAMESAKE}"
    tags: tuple[str, ...] = ("distillation",)


UNITS = "units (hidden channels, heads, channels of heads, FFN neurons)"
HOMODISTIL = MethodCard(
    student="HomoDistil student",
    made="made from {teacher} by pruning its width while distilling it",
    how=f"The student began as an exact copy of its teacher. While it was distilled, its least important {UNITS} "
    "were dropped a few at a time: HomoDistil. What was left is a smaller dense model.",
    paper="The student was made by HomoDistil, the method of",
    tags=("pruning", "distillation"),
)
THEN_DISTILLED = "What was left, a smaller dense model, was then distilled with HomoDistil's losses."
LOSSES_ALONE = "The losses are HomoDistil's, its gradual pruning is not; HomoDistil is the method of"
PRUNED_AT_ONCE = MethodCard(
    student="One-shot pruned student",
    made="made from {teacher} by pruning its width at once and distilling it afterwards",
    how=f"The student began as a copy of its teacher. Before training, its {UNITS} were scored on a few "
    f"batches, and the least important ones were dropped all at once. {THEN_DISTILLED}",
    paper=LOSSES_ALONE,
    tags=("pruning", "distillation"),
)


def render_card(facts: Mapping[str, Any], template: str | None = None) -> str:
    """Fill the model card, markdown with its YAML header, with an export's facts.

    Args:
        facts: content of an export's `facts.json`.
        template: text with `$name` places; default: the package's `MODEL_CARD_TEMPLATE.md`.
    """
    text = template if template is not None else card_template()
    return string.Template(text).substitute(
        metadata=_metadata(facts).to_yaml(),
        title=_title(facts),
        summary=_summary(facts),
        comparison="\n\n".join(filter(None, (_comparison(facts), _benchmarks(facts)))),
        widths=_widths(facts),
        usage=_usage(facts),
        format_note=_format_note(facts),
        how=_how(facts),
        training=_training(facts),
        settings=_settings(facts),
        licence=_licence(facts),
        paper=_paper(facts),
        versions=", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
    )


def card_template() -> str:
    """The package's card template, text with `$name` places for [`string.Template`]."""
    return resources.files("homodistil_hf").joinpath(_TEMPLATE_FILE).read_text(encoding="utf-8")


def _head(facts: Mapping[str, Any]) -> HeadKind:
    return HEADS[facts["student"]["architecture"]].kind


def _words_of_method(facts: Mapping[str, Any]) -> MethodCard | None:
    words = facts.get(CARD_SECTION)
    return MethodCard(**words) if words else None


def _method(facts: Mapping[str, Any]) -> Any:
    return (facts.get("training") or {}).get("method")


def _metadata(facts: Mapping[str, Any]) -> ModelCardData:
    teacher = facts["teacher"] or {}
    pipeline, method = _head(facts).pipeline, _words_of_method(facts)
    results = [*_eval_results(facts, pipeline), *_benchmark_results(facts)]
    return ModelCardData(
        license=teacher.get("licence"),
        base_model=teacher.get("hub_id"),
        library_name="transformers",
        pipeline_tag=pipeline,
        tags=["homodistil", _architecture(facts).model_type, *(method.tags if method else ())],
        model_name=_title(facts) if results else None,
        eval_results=results or None,
    )


def _eval_results(facts: Mapping[str, Any], pipeline: str) -> list[EvalResult]:
    return [
        EvalResult(
            task_type=pipeline,
            dataset_type="held-out",
            dataset_name="the run's held-out data",
            metric_type=name,
            metric_name=_METRIC_LABELS.get(name, _words(name)),
            metric_value=value,
        )
        for name, value in facts.get("evaluation", {}).items()
        if is_number(value)
    ]


def _benchmark_results(facts: Mapping[str, Any]) -> list[EvalResult]:
    results = []
    for name, found in facts.get(BENCHMARKS, {}).get("tasks", {}).items():
        is_squad = found["task"].startswith("squad")
        about = f"{name}, mean of {len(found['seeds'])} fine-tunings"
        results += [
            EvalResult(
                task_type="question-answering" if is_squad else "text-classification",
                dataset_type=f"rajpurkar/{found['task']}" if is_squad else "nyu-mll/glue",
                dataset_config=None if is_squad else found["task"],
                dataset_name=name,
                dataset_split="validation",
                metric_type=metric,
                metric_name=f"{_words(metric)} ({about})",
                metric_value=values["mean"],
            )
            for metric, values in found["metrics"].items()
        ]
    return results


def _title(facts: Mapping[str, Any]) -> str:
    teacher, method = facts["teacher"], _words_of_method(facts)
    student = method.student if method else "Student"
    return f"{student} of {teacher['name']}" if teacher else student


def _summary(facts: Mapping[str, Any]) -> str:
    teacher, method = facts["teacher"], _words_of_method(facts)
    name = _architecture(facts).name
    article = "an" if name[0] in "EMX" and not name.startswith("Mo") else "a"
    told = f"This is a {_head(facts).title}: {article} {name} of {facts['student']['num_hidden_layers']} layers"
    named = f"`{teacher['name']}` (licence: {teacher['licence']})" if teacher else "a larger one"
    if method:
        return f"{told} that was {method.made.replace('{teacher}', named)}."
    return f"{told} whose teacher is {named}." if teacher else f"{told}."


def _architecture(facts: Mapping[str, Any]) -> Architecture:
    class_name = facts["student"]["architecture"]
    return next(architecture for architecture in ARCHITECTURES.values() if class_name in architecture.heads_by_name)


def _comparison(facts: Mapping[str, Any]) -> str:
    teacher, student = facts["teacher"] or {}, facts["student"]
    rows = [
        (_COST_LABELS[name], teacher.get(name), student[name], facts["cost_fractions"].get(name)) for name in COSTS
    ]
    metrics = (facts.get("teacher_evaluation", {}), facts.get("evaluation", {}))
    for name in dict.fromkeys([*metrics[0], *metrics[1]]):
        rows.append((_METRIC_LABELS.get(name, _words(name)), metrics[0].get(name), metrics[1].get(name), None))
    return _table(("", "teacher", "student", "student / teacher"), rows)


def _benchmarks(facts: Mapping[str, Any]) -> str:
    """What `homodistil evaluate` found: a table of tasks, and one of the discrepancy."""
    found = facts.get(BENCHMARKS, {})
    tables = []
    if tasks := found.get("tasks"):
        rows = [
            (name, _words(metric), values["mean"], values["std"], len(task["seeds"]), task["num_train_rows"])
            for name, task in tasks.items()
            for metric, values in task["metrics"].items()
        ]
        header = ("fine-tuned on", "metric on dev", "mean", "standard deviation", "seeds", "training rows")
        tables.append(_table(header, rows))
        if any(name.endswith("_part") for name in tasks):
            tables.append("Names that end in `_part` stand for a part of a task's rows.")
    if discrepancy := found.get("discrepancy"):
        measured = [(label, discrepancy[name]) for name, label in _METRIC_LABELS.items() if name in discrepancy]
        tables.append(_table((f"on {', '.join(discrepancy.get('eval_data', []))}", "student"), measured))
    return "\n\n".join(tables)


def _widths(facts: Mapping[str, Any]) -> str:
    plan = facts["student"]["plan"]
    header = f"Hidden size {_shown(plan['hidden_size'])}; "
    if "layers" not in plan:
        widths = ", ".join(f"{_shown(plan[name])} {label}" for name, label in _WIDTH_LABELS.items())
        return header + f"in every layer {widths}."
    rows = [(index, *(layer[name] for name in _WIDTH_LABELS)) for index, layer in enumerate(plan["layers"])]
    return header + "its layers differ:\n\n" + _table(("layer", *_WIDTH_LABELS.values()), rows)


def _usage(facts: Mapping[str, Any]) -> str:
    question, auto_class = _head(facts).question, _head(facts).auto_class
    remote_code = ", trust_remote_code=True" if facts["format"] == "compact" else ""
    return "\n".join(
        (
            f"from transformers import {auto_class}, AutoTokenizer"
            + (", pipeline" if "pipeline(" in question else ""),
            'name = "."  # this folder, or the name of this repository',
            f"model = {auto_class}.from_pretrained(name{remote_code})",
            f"tokenizer = AutoTokenizer.from_pretrained(name{remote_code})",
            question,
        )
    )


def _code_files(facts: Mapping[str, Any]) -> str:
    return " and ".join(f"`{name}`" for name in sorted(facts["files"]) if name.endswith(".py"))


def _format_note(facts: Mapping[str, Any]) -> str:
    forms = facts["forms"]
    if facts["format"] == "standard":
        note = "Stock transformers load it, without remote code."
        if forms:
            note += " No stock class has the student's widths; zeros fill the rest, which changes no logit."
    else:
        note = (
            f"It needs transformers {facts['requires']['transformers']}. `trust_remote_code=True` runs "
            f"{_code_files(facts)} from this folder, which import torch and transformers only; after "
            f"`import homodistil_hf` it is not needed."
        )
    if not forms:
        return note
    padded = forms["padded"] or {}
    rows = [(_COST_LABELS[name], forms["compact"][name], padded.get(name)) for name in COSTS]
    return f"{note}\n\n" + _table(("", "compact form", "padded to the stock class"), rows)


def _how(facts: Mapping[str, Any]) -> str:
    if words := _words_of_method(facts):
        return words.how
    method = _method(facts)
    if method is None:
        return "By which method the student was trained is not recorded."
    return f"The student was trained by the method {_shown(method)}; this export does not describe it."


def _training(facts: Mapping[str, Any]) -> str:
    training = facts.get("training")
    if not training:
        return "No record of the training run came with this export."
    return "\n".join(f"- {_words(name)}: {_shown(value)}" for name, value in training.items())


def _settings(facts: Mapping[str, Any]) -> str:
    settings = facts.get("settings")
    if not settings:
        return "No settings came with this export."
    return _table(("setting", "value"), [(f"`{name}`", value) for name, value in settings.items()])


def _licence(facts: Mapping[str, Any]) -> str:
    teacher = facts["teacher"]
    if not teacher:
        return "The student derives from a teacher that is not recorded here; its licence applies."
    if teacher["licence"] == UNKNOWN_LICENCE:
        return f"The student derives from `{teacher['name']}`, whose licence could not be found; ask its authors."
    return f"The student derives from `{teacher['name']}`, whose licence is {teacher['licence']}."


def _paper(facts: Mapping[str, Any]) -> str:
    method = _words_of_method(facts)
    return f"{method.paper if method else _NAMESAKE}:"


def _table(header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    return "\n".join(markdown_table(header, (list(map(_shown, row)) for row in rows)))


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if is_int(value):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split()).replace("|", "\\|")


def _words(name: str) -> str:
    return name.replace("_", " ")
