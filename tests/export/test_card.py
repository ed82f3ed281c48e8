"""The card states facts and nothing else."""

import dataclasses
import json
import re

import pytest
import yaml
from huggingface_hub import ModelCard
from rows import each
from tiny_models import UNEVEN, UNIFORM, make_teacher, random_student
from transformers import BertForMaskedLM

from homodistil_hf.export.card import card_template, render_card
from homodistil_hf.export.export_folder import export_student
from homodistil_hf.export.facts import read_facts
from homodistil_hf.export.outcome import outcome_rows
from homodistil_hf.models.architectures.bert import BERT
from homodistil_hf.models.architectures.modeling_homobert import HomoBertForMaskedLM, HomoBertForQuestionAnswering
from homodistil_hf.runs.kinds import METHODS, trainer_named

RUN = {
    "settings": {
        "learning_rate": 3e-4,
        "per_device_train_batch_size": 32,
        "student": "macs=0.25",
        "warmup_ratio": 0.0625,
        "bf16": False,
        "odd": "a|b\n$title `c`",
        "lr_scheduler_kwargs": {"power": 2},
        "run_name": None,
    },
    "training": {"method": "homodistil", "num_steps": 28_000, "num_tokens": 114_688_000},
    "evaluation": {"kl": 0.31250001, "mlm_accuracy": 0.5625, "task_f1": 0.875},
    "teacher_evaluation": {"kl": 0.0, "mlm_accuracy": 0.6875},
}
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)*(?:e-?\d+)?")


def export(folder, format="standard", plan=UNEVEN, **facts):
    """Export a random student of `somebody/a-bert`."""
    teacher = make_teacher(BertForMaskedLM, name_or_path="somebody/a-bert")
    student = random_student(HomoBertForMaskedLM, plan)
    return export_student(student, folder / "student", format, teacher=teacher, facts=RUN | facts)


@pytest.fixture(scope="module")
def facts_of(tmp_path_factory):
    """The facts of an export with others of its run, and their card; students that differ by their run are one."""
    folders = {}

    def facts_and_card(format="standard", plan=UNEVEN, **run):
        if (format, plan) not in folders:
            folders[format, plan] = export(tmp_path_factory.mktemp("card"), format, plan)
        facts = read_facts(folders[format, plan]) | run
        if (method := str(facts["training"].get("method"))) in METHODS:
            facts["card"] = json.loads(json.dumps(dataclasses.asdict(trainer_named(method).card)))
        return facts, render_card(facts)

    return facts_and_card


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def numbers_of(values):
    """Every number in facts, shown as the card shows it."""
    if isinstance(values, dict):
        return {shown for value in values.values() for shown in numbers_of(value)} | numbers_of(list(values))
    if isinstance(values, list):
        return {shown for value in values for shown in numbers_of(value)} | {str(len(values))}
    if isinstance(values, str | bool | None):
        return set(NUMBER.findall(str(values)))
    return {f"{values:,}", str(values), f"{values:.4g}"}


def known_numbers(facts):
    """Numbers of facts, also as those of the first table, and the number of settings."""
    rows = " ".join(cell for row in outcome_rows(facts) for cell in row[1:])
    return numbers_of(facts) | set(NUMBER.findall(rows)) | {str(len(facts["settings"]))}


# The card


@pytest.mark.slow
@each("format", ("standard", "compact"))
@each("plan", (UNIFORM, UNEVEN))
def test_a_card_states_only_numbers_of_the_facts(facts_of, format, plan):
    facts, card = facts_of(format, plan)
    static = set(NUMBER.findall(card_template()))
    stated = set(NUMBER.findall(card)) - static
    assert len(stated) > 20
    # The index of a layer is no fact of its own.
    layers = {str(index) for index in range(len(plan.layers))}
    assert stated - known_numbers(facts) - layers == set()
    forged = card.replace(f"{facts['student']['num_parameters']:,}", "12,345,678")  # the test would notice
    assert set(NUMBER.findall(forged)) - static - known_numbers(facts) - layers == {"12,345,678"}


BENCHMARKS = {
    "tasks": {
        "rte": {
            "task": "rte",
            "score": {"mean": 0.53125, "std": 0.015625},
            "metrics": {"accuracy": {"mean": 0.53125, "std": 0.015625}},
            "seeds": [0, 1, 7],
            "scores": [0.5, 0.53125, 0.5625],
            "conditions": {},
            "num_train_rows": 2490,
            "num_available_rows": 2490,
        },
        "squad_v2_part": {
            "task": "squad_v2",
            "score": {"mean": 0.25, "std": None},
            "metrics": {"exact": {"mean": 20.5, "std": None}, "f1": {"mean": 25.0, "std": None}},
            "seeds": [3],
            "scores": [0.25],
            "conditions": {},
            "num_train_rows": 4806,
            "num_available_rows": 4806,
        },
    },
    "discrepancy": {"kl": 0.4375, "agreement": 0.59375, "eval_data": ["text/a.txt"], "num_blocks": 1024},
}


def test_a_card_states_evaluations(facts_of):
    facts, card = facts_of(benchmarks=BENCHMARKS)
    for row in (
        "| rte | accuracy | 0.5312 | 0.01562 | 3 | 2,490 |",
        "| squad_v2_part | exact | 20.5 | – | 1 | 4,806 |",
        "| on text/a.txt | student |",
        "| the teacher's top predictions | 0.5938 |",
    ):
        assert row in card
    assert "Names that end in `_part` stand for a part of a task's rows." in card
    (index,) = yaml.safe_load(card.split("---")[1])["model-index"]
    assert index["name"] == title_of(facts)
    results = {(one["dataset"]["type"], one["dataset"].get("config")): one["metrics"] for one in index["results"]}
    assert results["nyu-mll/glue", "rte"] == [
        {"type": "accuracy", "value": 0.53125, "name": "accuracy (rte, mean of 3 fine-tunings)"}
    ]
    assert [metric["value"] for metric in results["rajpurkar/squad_v2", None]] == [20.5, 25.0]
    layers = {str(index) for index in range(len(UNEVEN.layers))}
    names = {"2", "1"}  # of squad_v2 and F1
    known = {*NUMBER.findall(card_template()), *known_numbers(facts), *layers, *names}
    assert set(NUMBER.findall(card)) <= known


def test_a_card_compares_student_and_teacher(facts_of):
    facts, card = facts_of()
    student, teacher = facts["student"], facts["teacher"]
    fewer = teacher["num_parameters"] / student["num_parameters"]
    assert (
        f"| parameters | {teacher['num_parameters']:,} | {student['num_parameters']:,} | {fewer:.2g}× fewer |" in card
    )
    assert "| masked-word accuracy | 68.8 % | 56.2 % | 82 % |" in card
    assert "| KL to the teacher, nats a prediction | 0 | 0.3125 |  |" in card
    assert "| task f1 |  | 87.5 % |  |" in card
    assert "Quality was measured on the run's held-out rows." in card
    smaller = teacher["size_bytes"] / student["size_bytes"]
    assert f"\n**{smaller:.2g}× smaller, keeps 82 % of masked-word accuracy.**\n" in card


def test_a_card_says_on_what_it_was_measured(facts_of):
    data = {"train": ["a.parquet"], "held_out": ["b.parquet"], "num_train_rows": 9000, "num_held_out_rows": 1024}
    latency = {"teacher_ms": 8.0, "student_ms": 2.5, "batch_size": 8, "length": 128, "device": "cpu", "machine": "Zen"}
    training = RUN["training"] | {"num_epochs": 0.5, "num_bad_steps": 0}
    _, card = facts_of(data=data | {"max_tokens": 64}, latency=latency, training=training)
    assert "Quality was measured on 1,024 held-out rows of b.parquet. Times are of Zen." in card
    assert "| ms for 8 texts of 128 tokens, on cpu | 8 | 2.5 | 3.2× faster |" in card
    assert "Training took 28,000 optimizer steps, 0.5 passes over 9,000 rows of a.parquet.\n" in card
    assert "bad steps" not in card
    assert "- It was trained on texts of up to 64 tokens; how it reads longer ones was not measured.\n" in card


def test_a_card_tells_the_settings_that_differ_or_all(tmp_path, facts_of):
    folder = export(tmp_path, changed_settings={"max_steps": 7, "hub_token": "secret"})
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card == render_card(read_facts(folder))
    changed = card.partition("## Settings\n")[2].partition("\n## ")[0]
    assert changed.strip().endswith("| setting | value |\n| --- | --- |\n| `max_steps` | 7 |")
    card = facts_of()[1]
    for row in (
        "| `learning_rate` | 0.0003 |",
        "| `student` | macs=0.25 |",
        "| `bf16` | false |",
        "| `odd` | a\\|b $title `c` |",
        '| `lr_scheduler_kwargs` | {"power": 2} |',
        "| `run_name` | – |",
    ):
        assert row in card
    assert "Training took 28,000 optimizer steps.\n\n- num tokens: 114,688,000\n" in card


def test_the_header_is_what_the_hub_reads(facts_of):
    facts, card = facts_of()
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "transformers"
    assert header["pipeline_tag"] == "fill-mask"
    assert header["base_model"] == "somebody/a-bert"
    assert header["license"] == facts["teacher"]["licence"] == "unknown"
    assert "homodistil" in header["tags"]
    assert ModelCard(card).data.pipeline_tag == "fill-mask"


def title_of(facts):
    return f"a-bert, {facts['teacher']['size_bytes'] / facts['student']['size_bytes']:.2g}× smaller"


def test_the_sections_of_a_card(facts_of):
    facts, card = facts_of()
    assert re.findall(r"^#+ (.+)$", card, re.MULTILINE) == [
        title_of(facts),
        "How to use",
        "How it was made",
        "Settings",
        "Limits",
        "Licence",
        "Citation",
    ]
    assert (
        "a masked-language model: a BERT of 2 layers that was made from `somebody/a-bert` (licence: unknown)" in card
    )
    assert "@inproceedings{liang2023homodistil," in card


def test_a_card_tells_the_widths_and_that_uneven_ones_are_padded(facts_of):
    _, card = facts_of("compact", UNIFORM)
    assert "Hidden size 24; in every layer 3 heads, 8 channels a head, 16 FFN neurons." in card
    facts, card = facts_of()
    header = "| layer | heads | channels a head | FFN neurons |\n| --- | --- | --- | --- |"
    assert f"{header}\n| 0 | 3 | 5 | 16 |\n| 1 |" in render_card(facts | {"student": facts["forms"]["compact"]})
    assert "No stock class has the student's widths; zeros fill the rest, which changes no logit." in card


def test_a_bare_export_has_a_card(tmp_path):
    folder = export_student(random_student(HomoBertForMaskedLM, UNIFORM), tmp_path / "student")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "# Student\n" in card
    assert "a BERT of 2 layers.\n" in card
    assert "No record of the training run came with this export." in card
    assert "No settings came with this export." in card
    assert "a teacher that is not recorded here" in card
    assert yaml.safe_load(card.split("---")[1]).keys() == {"library_name", "pipeline_tag", "tags"}


# How the student was made

OF_HOMODISTIL = (
    "by pruning its width while distilling it",
    "exact copy of its teacher",
    "were dropped a few at a time",
    "The student was made by HomoDistil, the method of",
)


def header_of(card):
    return yaml.safe_load(card.split("---")[1])


def test_a_card_of_homodistil_says_so(facts_of):
    _, card = facts_of()
    assert [words for words in OF_HOMODISTIL if words not in card] == []
    assert header_of(card)["tags"] == ["homodistil", "bert", "pruning", "distillation"]


@pytest.mark.parametrize(
    ("method", "made", "tags"),
    [
        (
            "one_shot",
            "was made from `somebody/a-bert` (licence: unknown) by pruning its width at once and distilling it after",
            ["pruning", "distillation"],
        ),
        (
            "scratch",
            "was trained from random weights on masked words, as a counterpart of `somebody/a-bert` (licence: unkn",
            [],
        ),
        (
            "distilbert",
            "was made from whole layers of `somebody/a-bert` (licence: unknown) and distilled from it.",
            ["distillation"],
        ),
    ],
)
def test_a_card_of_another_method_does_not_say_homodistil(facts_of, method, made, tags):
    facts, card = facts_of(training={"method": method})
    assert f"\n# {title_of(facts)}\n" in card
    assert made in card
    assert f"## How it was made\n\n{trainer_named(method).card.how}\n\n" in card
    assert (
        f"## Citation\n\n{trainer_named(method).card.paper}:\n\n```bibtex\n@inproceedings{{liang2023homodistil,"
        in card
    )
    assert [words for words in OF_HOMODISTIL if words in card] == []
    assert header_of(card)["tags"] == ["homodistil", "bert", *tags]


def test_a_card_says_of_an_unknown_method_only_what_is_known(facts_of):
    facts, card = facts_of(training={"num_steps": 3})
    assert f"\n# {title_of(facts)}\n" in card
    assert "a BERT of 2 layers whose teacher is `somebody/a-bert` (licence: unknown).\n" in card
    assert "## How it was made\n\nBy which method the student was trained is not recorded." in card
    assert "Training took 3 optimizer steps." in card
    assert "HomoDistil, which `homodistil_hf` is named after, is the method of:\n" in card
    assert [words for words in OF_HOMODISTIL if words in card] == []
    assert header_of(card)["tags"] == ["homodistil", "bert"]


# Templates and code


@pytest.mark.slow
@pytest.mark.parametrize("student_class", [head.student for head in BERT.heads])
def test_the_lines_of_how_to_use_run(tmp_path, tokenizer, capsys, student_class):
    student = random_student(student_class, UNIFORM, vocab_size=len(tokenizer))
    folder = export_student(student, tmp_path / "student", tokenizer=tokenizer)
    card = (folder / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.+?)```", card, re.DOTALL)
    assert len(code.splitlines()) <= 7
    exec(code.replace('name = "."', f"name = {str(folder)!r}"), {})
    # A question's answer may be empty with random weights; all others print classes with their scores.
    assert capsys.readouterr().out.count("'score': ") > 0 or student_class is HomoBertForQuestionAnswering


def test_a_compact_card_asks_for_remote_code(facts_of):
    _, card = facts_of("compact")
    assert "AutoModelForMaskedLM.from_pretrained(name, trust_remote_code=True)" in card
    assert "It needs transformers ≥ 5.14." in card
    assert "trust_remote_code" not in facts_of()[1]


# Names that anybody may have chosen

EVIL = "x`\n---\n# <script>alert(1)</script> ![p](http://evil/p.png)\x85\u202e"


def assert_harmless(card):
    header, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(header)["library_name"] in ("transformers", "sentence-transformers")
    assert ModelCard(card).data.library_name == yaml.safe_load(header)["library_name"]
    assert "\u202e" not in card
    outside_code = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", re.sub(r"```.*?```", "", body, flags=re.DOTALL))
    assert "<script>" not in outside_code
    assert "](http://evil" not in outside_code
    assert [line for line in body.splitlines() if line.startswith("# ")] == [body.strip().splitlines()[0]]
    return body


def test_names_in_a_strangers_facts_stay_names(facts_of):
    facts, _ = facts_of()
    facts["teacher"] |= {"name": EVIL, "licence": EVIL, "hub_id": EVIL}
    facts["versions"] = {EVIL: EVIL}
    for section in ("settings", "training", "evaluation"):
        facts[section] = {EVIL: EVIL if section != "evaluation" else 0.5}
    facts["card"] = dict.fromkeys(("student", "made", "how", "paper"), EVIL) | {"tags": [EVIL]}
    body = assert_harmless(render_card(facts))
    assert body.count("alert(1)") > 10


def test_names_of_folders_stay_names():
    from homodistil_hf.embedding.card import embedding_card

    student = {"max_seq_length": 8, "dimension": 4}
    probe = {"vectors": {"query": []}}
    facts = {"student": student, "teacher": student | {"name": EVIL}, "probe": probe, "versions": {}}
    body = assert_harmless(embedding_card(EVIL, facts))
    (code,) = re.findall(r"```python\n(.+?)```", body, re.DOTALL)
    assert "model = SentenceTransformer(name)\n" in code.partition('name = "."  # this folder\n')[2]
    assert_harmless(embedding_card(EVIL, facts | {"teacher": None}))


def test_names_of_models_stay_names_in_other_cards():
    from homodistil_hf.methods.self_distillation.rounds import further_pretraining_card

    settings = dict.fromkeys(("num_rounds", "max_steps", "num_train_epochs", "distillation_weight", "seed"), 1)
    settings |= dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps", "weight_decay"), 1)
    settings |= {"mlm_probability": 0.15, "learning_rate": EVIL}
    assert_harmless(further_pretraining_card("BertForMaskedLM", {"model": EVIL}, settings))
