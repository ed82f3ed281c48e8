"""Model cards: [`fill_card`] puts texts into the one template; [`render_card`] makes the texts from a student's facts.

`methods/` and `runs/` make the texts of other models, beside the code that writes their folders.
"""

import json
import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.utils import yaml_dump

from ..files.strict_json import is_int, is_number
from ..models.architectures import ARCHITECTURES, HEADS
from ..models.architectures.architecture import SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, Architecture, HeadKind
from ..tables import FIGURE_NAMES, markdown_table
from ..tasks.kinds import CLASSES, LABELS, TAGS, VALUES
from .facts import (
    BENCHMARKS,
    CARD_SECTION,
    CHANGED,
    DATA,
    GUARANTEE,
    NAMESAKE,
    THIS_FOLDER,
    UNKNOWN_LICENCE,
    MethodCard,
    section_of,
)
from .outcome import (
    RUNTIMES,
    WIDTHS,
    measured_on,
    outcome_line,
    outcome_rows,
    runtime_cells,
    runtime_rows,
    size_cells,
    widths_in,
)

_TEMPLATE_FILE = "MODEL_CARD_TEMPLATE.md"


_PIPELINES = {
    CLASSES: '"text-classification", {model}',
    LABELS: '"text-classification", {model}, top_k=None',
    VALUES: '"text-classification", {model}, function_to_apply="{activation}", top_k=None',
    TAGS: '"token-classification", {model}, aggregation_strategy="first"',
}
_PAIR = '{{"text": {}, "text_pair": {}}}'
_EXAMPLES = {
    SEQUENCE_CLASSIFICATION.name: ("A fine piece of work.", "Well done."),
    TOKEN_CLASSIFICATION.name: ("Ada Lovelace lived in London.",),
}
"""Head → texts that a card shows its use with, the second of pairs."""


def render_card(facts: Mapping[str, Any]) -> str:
    """Write the card of an exported student, markdown with its YAML header.

    It states no number that the facts, content of `facts.json`, lack.
    """
    texts, teacher, method = run_texts(facts), facts["teacher"] or {}, _words_of_method(facts)
    pipeline = _head(facts).pipeline
    results = _eval_results(facts)
    metadata = ModelCardData(
        license=teacher.get("licence"),
        base_model=teacher.get("hub_id"),
        library_name="transformers",
        pipeline_tag=pipeline,
        tags=["homodistil", _architecture(facts).model_type, *(method.tags if method else ())],
        model_name=_title(facts) if results else None,
        eval_results=results or None,
    )
    texts["comparison"] = "\n\n".join(filter(None, (texts["comparison"], _benchmarks(facts))))
    return fill_card(
        metadata,
        facts["versions"],
        title=_title(facts),
        summary=_summary(facts),
        usage=_usage(facts),
        format_note=_format_note(facts),
        how=method.how if method else "By which method the student was trained is not recorded.",
        paper=paper_words(facts),
        **texts,
    )


CODE_NOTE = "The modelling files beside this one are pure torch."
"""Of models of bits."""


def run_texts(facts: Mapping[str, Any]) -> dict[str, str]:
    """The texts that cards of all kinds share, by place: from what was won to the licence."""
    won, changed, settings = outcome_line(facts, place=""), facts.get(CHANGED), facts.get("settings")
    changes = "These differ from their defaults; `facts.json` has all:\n\n" if changed else ""
    rows = [(code_span(name), value) for name, value in (changed or settings or {}).items()]
    comparison = ""
    if outcome := outcome_rows(facts):
        table = card_table(("", "teacher", "student", "kept"), (row[1:] for row in outcome))
        comparison = "\n\n".join(filter(None, (table, plain_text(measured_on(facts))))) + runtimes_text(facts)
    if sizes := size_cells(facts):
        comparison += (
            f"\n\nSizes in this folder, the largest first (`nested.json`):\n\n{card_table(sizes[0], sizes[1:])}"
        )
    widths, layers = widths_in(section_of(facts, "student"))
    table = card_table(("layer", *WIDTHS.values()), layers) if layers else ""
    # lengths and languages of text, as far as they are recorded
    teacher, limits = facts.get("teacher") or {}, []
    if is_int(most := facts.get(DATA, {}).get("max_tokens")):
        limits.append(
            f"- It was trained on texts of up to {most:,} tokens; how it reads longer ones was not measured."
        )
    if languages := teacher.get("language"):
        named = plain_text(", ".join(map(str, languages)))
        limits.append(f"- Languages, by the card of the model it was made from: {named}.")
    else:
        limits.append("- The languages of its text are not recorded; it can read those of the model it was made from.")
    licence = "The student derives from a teacher that is not recorded here; its licence applies."
    if teacher:
        stated = teacher.get("licence", UNKNOWN_LICENCE)
        words = "could not be found; ask its authors" if stated == UNKNOWN_LICENCE else f"is {plain_text(stated)}"
        licence = f"The student derives from {code_span(teacher['name'])}, whose licence {words}."
    return {
        "won": f"**{won[0].upper()}{won[1:]}.**" if won else "",
        "comparison": comparison,
        "widths": "\n\n".join(filter(None, (plain_text(widths), table))),
        "training": f"{_training(facts)}\n\nEvery number of this card follows from `facts.json`.",
        "settings": changes + card_table(("setting", "value"), rows) if rows else "No settings came with this export.",
        "limits": "\n".join(limits),
        "licence": licence,
    }


def result_title(facts: Mapping[str, Any], otherwise: str) -> str:
    """The name of a result, such as `bert-base-uncased, 3.6× smaller`; `otherwise` where its teacher isn't known."""
    teacher = facts.get("teacher")
    if not isinstance(teacher, Mapping):
        return otherwise
    smaller = next((row.kept for row in outcome_rows(facts) if row.name == "size_bytes"), "")
    name = str(teacher["name"]).rpartition("/")[2]
    return f"{name}, {smaller or 'distilled'}"


def fill_card(metadata: ModelCardData, versions: Mapping[str, str], **texts: str) -> str:
    """Put texts into the template of cards; paragraphs whose places are empty are left out, and so are empty sections.

    Names in header, title and versions may be anybody's; in the other texts they go through [`plain_text`] or
    [`code_span`] first.

    Args:
        metadata: the YAML header.
        versions: package → version, of what wrote the model.
        texts: place → markdown; a place that isn't given is empty.
    """
    template = card_template()
    places = dict.fromkeys(_places(template), "") | texts
    if "title" in texts:
        places["title"] = plain_text(texts["title"])
    if isinstance(metadata.license, str) and ", " in metadata.license:  # the Hub knows each by its name alone
        metadata.license = metadata.license.split(", ")
    header = yaml_dump(_on_one_line(metadata.to_dict()), sort_keys=False).strip()
    places |= {"metadata": header, "versions": plain_text(", ".join(f"{name} {of}" for name, of in versions.items()))}

    def is_filled(part: str) -> bool:
        names = _places(part)
        return not names or any(places[name] for name in names)

    # sections first: an empty one takes its heading along
    sections = re.split(r"\n\n(?=## )", template.strip())
    paragraphs = [part for section in sections if is_filled(section) for part in section.split("\n\n")]
    return "\n\n".join(string.Template(part).substitute(places) for part in filter(is_filled, paragraphs)) + "\n"


def _on_one_line(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _on_one_line(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_on_one_line(item) for item in value]
    return one_line(value) if isinstance(value, str) else value


def card_template() -> str:
    """The package's card template, text with `$name` places for [`string.Template`]."""
    return resources.files("homodistil_hf").joinpath(_TEMPLATE_FILE).read_text(encoding="utf-8")


def _places(text: str) -> list[str]:
    return re.findall(r"\$(\w+)", text)


def loading_lines(auto_class: str, *imports: str, remote_code: bool = False) -> str:
    """Python lines that load a model and its tokenizer from the folder of the card; `imports` are further names."""
    trust = ", trust_remote_code=True" if remote_code else ""
    return (
        f"from transformers import {', '.join((auto_class, 'AutoTokenizer', *imports))}\n"
        f"{THIS_FOLDER}\n"
        f"model = {auto_class}.from_pretrained(name{trust})\n"
        f"tokenizer = AutoTokenizer.from_pretrained(name{trust})"
    )


def pipeline_call(kind: str, model: str, texts: Sequence[str], activation: Any = None) -> str:
    """A Python expression by which a fine-tuned model predicts; transformers has no pipeline for answers.

    `kind` is one of `tasks/kinds.py`; `model` is Python, the arguments that name it; a pair has two `texts`.
    `activation` is behind a value, where it has one.

    Example:
    ```python
    >>> pipeline_call("several labels", "model, tokenizer=tokenizer", ["Well done."])
    'pipeline("text-classification", model, tokenizer=tokenizer, top_k=None)("Well done.")'

    ```
    """
    quoted = [f'"{text}"' for text in texts]
    example = quoted[0] if len(texts) == 1 else _PAIR.format(*quoted)
    name = "sigmoid" if activation == "sigmoid" else "none"  # the pipeline knows no other of values
    return f"pipeline({_PIPELINES[kind].format(model=model, activation=name)})({example})"


def _head(facts: Mapping[str, Any]) -> HeadKind:
    return HEADS[facts["student"]["architecture"]].kind


def _words_of_method(facts: Mapping[str, Any]) -> MethodCard | None:
    words: dict[str, Any] = facts.get(CARD_SECTION) or {}
    shown: dict[str, Any]
    shown = {name: plain_text(text) if isinstance(text, str) else text for name, text in words.items()}
    return MethodCard(**shown) if shown else None


def _eval_results(facts: Mapping[str, Any]) -> list[EvalResult]:
    """Results on data sets of the Hub, for the `model-index` that it reads."""
    results: list[EvalResult] = []
    for name, task in facts.get(BENCHMARKS, {}).get("tasks", {}).items():
        is_squad = task["task"].startswith("squad")
        about = f"{name}, mean of {len(task['seeds'])} fine-tunings"
        results += [
            EvalResult(
                task_type="question-answering" if is_squad else "text-classification",
                dataset_type=f"rajpurkar/{task['task']}" if is_squad else "nyu-mll/glue",
                dataset_config=None if is_squad else task["task"],
                dataset_name=name,
                dataset_split="validation",
                metric_type=metric,
                metric_name=f"{_words(metric)} ({about})",
                metric_value=values["mean"],
            )
            for metric, values in task["metrics"].items()
        ]
    return results


def _title(facts: Mapping[str, Any]) -> str:
    method = _words_of_method(facts)
    return result_title(facts, method.student if method else "Student")


def _summary(facts: Mapping[str, Any]) -> str:
    teacher, method = facts["teacher"], _words_of_method(facts)
    name = _architecture(facts).name
    article = "an" if name[0] in "EMX" and not name.startswith("Mo") else "a"
    start = f"This is a {_head(facts).title}: {article} {name} of {facts['student']['num_hidden_layers']} layers"
    named = f"{code_span(teacher['name'])} (licence: {plain_text(teacher['licence'])})" if teacher else "a larger one"
    if method:
        return f"{start} that was {method.made.replace('{teacher}', named)}."
    return f"{start} whose teacher is {named}." if teacher else f"{start}."


def _architecture(facts: Mapping[str, Any]) -> Architecture:
    class_name = facts["student"]["architecture"]
    return next(architecture for architecture in ARCHITECTURES.values() if class_name in architecture.heads_by_name)


def _benchmarks(facts: Mapping[str, Any]) -> str:
    """Results of `homodistil evaluate`: a table of tasks, and one of the discrepancy."""
    benchmarks = facts.get(BENCHMARKS, {})
    tables = []
    if tasks := benchmarks.get("tasks"):
        rows = [
            (name, _words(metric), values["mean"], values["std"], len(task["seeds"]), task["num_train_rows"])
            for name, task in tasks.items()
            for metric, values in task["metrics"].items()
        ]
        header = ("fine-tuned on", "metric on dev", "mean", "standard deviation", "seeds", "training rows")
        tables.append(card_table(header, rows))
        if any(name.endswith("_part") for name in tasks):
            tables.append("Names that end in `_part` stand for a part of a task's rows.")
    if discrepancy := benchmarks.get("discrepancy"):
        measured = [(label, discrepancy[name]) for name, label in FIGURE_NAMES.items() if name in discrepancy]
        tables.append(card_table((f"on {', '.join(discrepancy.get('eval_data', []))}", "student"), measured))
    return "\n\n".join(filter(None, [*tables, guarantee_text(benchmarks.get(GUARANTEE, {}))]))


def guarantee_text(guarantees: Mapping[str, Any]) -> str:
    """A table of guarantees and the words that it needs; empty without one.

    Args:
        guarantees: source of the rows → how often the student answers as its teacher: over all rows, and by groups.
    """
    if not guarantees:
        return ""
    counts: list[tuple[str, Mapping[str, Any]]] = []
    for source, one in guarantees.items():
        counts.append((source, one))
        for column, values in one["groups"].items():
            counts += [(f"{source}, {column}: {value}", group) for value, group in values.items()]
    rows = [
        (name, of["num_rows"], of["num_changed"], percent_below(of["agreement"]), percent_below(of["at_least"]))
        for name, of in counts
    ]
    confidence = min(one["confidence"] for one in guarantees.values())
    return card_table(("answers as the teacher's", "rows", "changed", "agreement, %", "at least, %"), rows) + (
        f"\n\nAt least: exact bounds (Clopper–Pearson) that hold with {confidence:.0%} confidence for rows drawn as "
        "these were, and all of one source together."
    )


def percent_below(share: float) -> str:
    """A share in percent, rounded down, as a rounded bound may not be better than the bound.

    Example:
    ```python
    >>> percent_below(0.73369), percent_below(1.0)
    ('73.3', '100.0')

    ```
    """
    # a hair more, as a product may end just below the whole number that it is
    return f"{math.floor(1000 * share + 1e-9) / 10:.1f}"


def _usage(facts: Mapping[str, Any]) -> str:
    head, data = _head(facts), facts.get(DATA, {})
    question = head.question
    if data.get("kind") in _PIPELINES and (texts := _EXAMPLES.get(head.name, ())[: len(data.get("text_columns", ()))]):
        call = pipeline_call(data["kind"], "model, tokenizer=tokenizer", texts, data.get("activation"))
        question = f"print({call})"
    imports = ["pipeline"] if "pipeline(" in question else []
    lines = loading_lines(head.auto_class, *imports, remote_code=facts["format"] == "compact")
    return f"{lines}\n{question}"


def _format_note(facts: Mapping[str, Any]) -> str:
    note = "Stock transformers load it, without remote code."
    if facts["format"] != "standard":
        files = " and ".join(code_span(name) for name in sorted(facts["files"]) if name.endswith(".py"))
        note = (
            f"It needs transformers {plain_text(facts['requires']['transformers'])}. `trust_remote_code=True` runs "
            f"{files} from this folder, which import torch and transformers only; after "
            f"`import homodistil_hf` it is not needed."
        )
    elif facts["forms"]:
        note += " No stock class has the student's widths; zeros fill the rest, which changes no logit."
    return note


def _training(facts: Mapping[str, Any]) -> str:
    """Steps, passes and rows in a sentence, then what else is recorded."""
    training, data = facts.get("training") or {}, facts.get(DATA, {})
    if not training:
        return "No record of the training run came with this export."
    sentence = ""
    steps, passes, rows = training.get("num_steps"), training.get("num_epochs"), data.get("num_train_rows")
    if is_int(steps):
        sentence = f"Training took {steps:,} optimizer steps"
        sentence += f", {passes:.2g} passes" if is_number(passes) else ""
        sentence += f" over {rows:,} rows" if is_int(rows) else ""
        names = ", ".join(map(str, data.get("train", ())))
        sentence += f" of {plain_text(names)}." if names else "."
    lines = "\n".join(
        f"- {plain_text(_words(name))}: {cell(value)}"
        for name, value in training.items()
        if name not in ("num_steps", "num_epochs", "method") and not name.startswith("kept_fraction")
        if value or not name.startswith("num_bad")
    )
    return "\n\n".join(filter(None, (sentence, lines)))


def paper_words(facts: Mapping[str, Any]) -> str:
    """How HomoDistil's paper relates to the model, in front of its citation."""
    method = _words_of_method(facts)
    return f"{method.paper if method else NAMESAKE}:"


def _words(name: str) -> str:
    return name.replace("_", " ")


def runtimes_text(facts: Mapping[str, Any]) -> str:
    """Paragraphs for a card, an empty line before them; empty where nothing was deployed."""
    rows = runtime_rows(facts)
    if not rows:
        return ""
    header, cells = runtime_cells(rows)
    section = facts[RUNTIMES]
    words = [
        "For other runtimes, each file run beside this model; times in turns with the model that it was made from, so "
        "they compare within a row:",
        card_table(header, cells),
    ]
    if isinstance(note := section.get("note"), str) and note:
        words.append(plain_text(note))
    return "".join(f"\n\n{part}" for part in words)


# Texts and values from folders, facts and settings as Markdown


def one_line(text: str) -> str:
    """A text on one line, without characters that change how others are shown."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def plain_text(text: str) -> str:
    r"""A name from a folder, from facts or from settings as Markdown: on one line, without HTML, links and images.

    Example:
    ```python
    >>> print(plain_text("a\n# <b>b</b> [c](d)"))
    a # &lt;b>b&lt;/b> [c]\(d)

    ```
    """
    return one_line(text).replace("<", "&lt;").replace("](", "]\\(")


def code_span(text: str) -> str:
    """A name as code in Markdown, on one line, within as many backticks as it takes.

    Example:
    ```python
    >>> print(code_span("my-bert"), code_span("a`b"))
    `my-bert` `` a`b ``

    ```
    """
    name = one_line(text)
    longest = max(map(len, re.findall("`+", name)), default=0)
    return f"{'`' * (longest + 1)} {name} {'`' * (longest + 1)}" if longest else f"`{name}`"


def card_table(header: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """Lay values out as a Markdown table; numbers are rounded to four digits, pipes in texts are escaped."""
    return "\n".join(markdown_table(list(map(cell, header)), (list(map(cell, row)) for row in rows)))


def cell(value: Any) -> str:
    """A value of a table: a number rounded, a text as [`plain_text`] with its pipes escaped."""
    if value is None:
        return "–"
    if is_int(value):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return plain_text(text).replace("|", "\\|")
