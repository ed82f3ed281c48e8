"""The table of evaluated models: its numbers by hand, and every note that says what is missing or not alike."""

import json

import pytest
from tiny_models import make_teacher, random_student
from transformers import BertForMaskedLM

from homodistil_hf.evaluation import compare, format_comparison
from homodistil_hf.export.export_folder import convert_export, export_student
from homodistil_hf.export.facts import read_facts
from homodistil_hf.models.architectures.modeling_homobert import HomoBertForMaskedLM

COSTS = {"num_parameters": 1000, "num_encoder_parameters": 900, "encoder_macs": 5000, "size_bytes": 4000}
DISCREPANCY = {
    "kl": 0.5,
    "agreement": 0.75,
    "mlm_loss": 2.5,
    "mlm_accuracy": 0.5,
    "pseudo_perplexity": 12.25,
    "settings": {"mask_seed": 42},
    "blocks_sha256": "text",
    "teacher_sha256": "teacher",
}


def task(*scores, seeds=None, num_train_rows=100, **conditions):
    """A task's part of a summary."""
    mean = sum(scores) / len(scores)
    std = (sum((score - mean) ** 2 for score in scores) / (len(scores) - 1)) ** 0.5 if len(scores) > 1 else None
    return {
        "task": "rte",
        "score": {"mean": mean, "std": std},
        "metrics": {"accuracy": {"mean": mean, "std": std}},
        "scores": list(scores),
        "seeds": list(seeds or range(len(scores))),
        "conditions": {"num_train_epochs": 3, "learning_rate": 1e-4, **conditions},
        "num_train_rows": num_train_rows,
        "num_available_rows": 100,
        "constant_score": 0.0,
    }


@pytest.fixture
def results(tmp_path):
    """Write the summary of a model; gives the folder of its results."""

    def write(name, discrepancy=None, **tasks):
        folder = tmp_path / "evaluations" / name
        folder.mkdir(parents=True)
        summary = {"model": {"name": name, **COSTS}, "tasks": tasks}
        summary |= {"discrepancy": discrepancy} if discrepancy else {}
        (folder / "summary.json").write_text(json.dumps(summary))
        return str(folder)

    return write


def notes_of(*models, **settings):
    return compare(models, **settings)["notes"]


def test_means_shares_and_spreads_by_hand(results):
    teacher = results("teacher", rte=task(0.7, 0.8), cola=task(0.5, 0.6), qnli=task(0.9))
    student = results("student", DISCREPANCY, rte=task(0.6, 0.5), cola=task(0.3, 0.4))
    found = compare([student], teacher=teacher)
    assert found["common_tasks"] == ["rte", "cola"]
    first, second = found["rows"]
    assert (first["name"], second["name"]) == ("teacher", "student")
    assert first["mean"]["mean"] == pytest.approx((0.75 + 0.55) / 2)
    # Seed by seed: (0.7 + 0.5) / 2 and (0.8 + 0.6) / 2.
    assert first["mean"]["std"] == pytest.approx(0.1 / 2**0.5)
    assert second["mean"]["mean"] == pytest.approx(0.45)
    assert second["mean"]["std"] == pytest.approx(0.0)
    assert second["kept_fraction"] == pytest.approx(0.45 / 0.65)
    assert second["tasks"]["rte"]["num_seeds"] == 2
    assert (second["kl"], first["kl"]) == (0.5, None)


def test_shares_above_what_one_answer_for_every_row_scores(results):
    teacher = results("teacher", rte=task(0.7) | {"constant_score": 0.5}, stsb=task(0.7) | {"constant_score": 0.0})
    student = results("student", rte=task(0.6) | {"constant_score": 0.5}, stsb=task(0.1) | {"constant_score": 0.0})
    found = compare([student], teacher=teacher)["rows"]
    assert [row["kept_fraction"] for row in found] == [1.0, pytest.approx(0.35 / 0.7)]
    assert [row["kept_above_constant"] for row in found] == [1.0, pytest.approx((0.35 - 0.25) / (0.7 - 0.25))]
    learned_nothing = results("nothing", rte=task(0.5) | {"constant_score": 0.5})
    (_, row) = compare([student], teacher=learned_nothing)["rows"]
    assert (row["kept_fraction"], row["kept_above_constant"]) == (None, None)


def test_the_table_is_markdown(results):
    teacher = results("teacher", rte=task(0.7, 0.8))
    student = results("student", DISCREPANCY, rte=task(0.6, 0.6))
    text = format_comparison(compare([student], teacher=teacher))
    header, line, first, second, *_ = text.splitlines()
    assert header == (
        "| model | parameters | without head | encoder MACs | bytes | KL, nats | MLM loss, nats | MLM accuracy | "
        "as teacher | pseudo-perplexity | rte | mean of 1 | of teacher's | above constant |"
    )
    assert line.count("|") == header.count("|")
    assert first == (
        "| teacher | 1,000 | 900 | 5,000 | 4,000 | – | – | – | – | – | 75.0 ± 7.1 | 75.0 ± 7.1 | 100.0% | 100.0% |"
    )
    assert second == (
        "| student | 1,000 | 900 | 5,000 | 4,000 | 0.500 | 2.500 | 50.0% | 75.0% | 12.250 | 60.0 ± 0.0 | 60.0 ± 0.0 "
        "| 80.0% | 80.0% |"
    )
    assert "tasks that all models have: rte." in text


def test_a_table_without_scores_has_no_legend_of_scores(results):
    text = format_comparison(compare([results("a", DISCREPANCY)]))
    assert [line[:10] for line in text.splitlines()] == ["| model | ", "| --- | --", "| a | 1,00"]
    one, other = results("b", DISCREPANCY), results("c", {**DISCREPANCY, "settings": {"mask_seed": 1}})
    *_, blank, note = format_comparison(compare([one, other])).splitlines()  # notes stay
    assert (blank, note) == ("", "- discrepancy: not measured alike (mask_seed: b 42, c 1).")


def test_one_seed_has_no_spread(results):
    text = format_comparison(compare([results("a", rte=task(0.5))]))
    assert "| 50.0 | 50.0 |" in text
    assert "teacher" not in text


def test_different_seeds_have_a_mean_without_spread(results):
    found = compare([results("a", rte=task(0.5, 0.7), cola=task(0.2, 0.4, seeds=(0, 5)))])
    assert found["rows"][0]["mean"] == {"mean": pytest.approx(0.45), "std": None}


def test_what_is_missing_is_named(results):
    full = results("full", DISCREPANCY, rte=task(0.5), cola=task(0.5), stsb=task(0.5))
    some = results("some", rte=task(0.5))
    assert notes_of(full, some) == ["some has not been evaluated on cola, stsb, discrepancy."]
    alone = {name: value for name, value in DISCREPANCY.items() if name not in ("kl", "agreement")}
    other = results("other", alone, rte=task(0.5), cola=task(0.5), stsb=task(0.5))
    assert notes_of(full, other) == ["other was measured without a teacher: no KL, no agreement."]


def test_parts_and_capped_rows_are_named(results):
    model = results("a", qnli_part=task(0.5), sst2=task(0.5, num_train_rows=10))
    assert notes_of(model) == [
        "qnli_part: a part of the task's rows, so no figure to hold against published ones.",
        "sst2: trained on 10 of 100 rows.",
    ]


@pytest.mark.parametrize(
    ("one", "other", "note"),
    [
        (task(0.5), task(0.5, num_train_epochs=5), "rte: not measured alike (num_train_epochs: a 3, b 5)."),
        (task(0.5, 0.5), task(0.5), "rte: not measured alike (number of seeds: a 2, b 1)."),
        (task(0.5), task(0.5, learning_rate=1e-3), "rte: not measured alike (learning_rate: a 0.0001, b 0.001)."),
        (task(0.5, data_sha256="x"), task(0.5, data_sha256="y"), "rte: not measured alike (data)."),
    ],
)
def test_what_was_not_measured_alike_is_named(results, one, other, note):
    assert notes_of(results("a", rte=one), results("b", rte=other)) == [note]


def test_learning_rates_of_the_same_search_may_differ(results):
    searched = {"learning_rates": [1e-4, 1e-3]}
    one = results("a", rte=task(0.5, **searched))
    other = results("b", rte=task(0.5, learning_rate=1e-3, **searched))
    assert notes_of(one, other) == []


def test_discrepancies_on_other_text_are_named(results):
    one = results("a", DISCREPANCY)
    other = results("b", {**DISCREPANCY, "blocks_sha256": "other", "settings": {"mask_seed": 1}})
    assert notes_of(one, other) == ["discrepancy: not measured alike (mask_seed: a 42, b 1; text)."]
    assert compare([one, other])["common_tasks"] == []


def test_nothing_to_compare_is_an_error(results, tmp_path):
    with pytest.raises(ValueError, match=r"models=\[\] names none"):
        compare([])
    with pytest.raises(ValueError, match="nothing has been evaluated; run homodistil evaluate MODEL --task"):
        compare([results("a")])
    with pytest.raises(ValueError, match="model='.*nowhere' does not exist; expected an export"):
        compare([tmp_path / "nowhere"])


def test_an_export_without_results_beside_it_tells_from_its_facts(tmp_path):
    section = {"tasks": {"rte": task(0.5, 0.7)}, "discrepancy": DISCREPANCY}
    folder = export_student(
        random_student(HomoBertForMaskedLM),
        tmp_path / "moved",
        teacher=make_teacher(BertForMaskedLM),
        facts={"benchmarks": section},
    )
    row = compare([folder])["rows"][0]
    assert row["name"] == "moved"
    assert row["tasks"]["rte"]["mean"] == pytest.approx(0.6)
    assert row["num_parameters"] == read_facts(folder)["student"]["num_parameters"]
    compact = convert_export(folder, tmp_path / "compact", "compact")
    assert read_facts(compact)["benchmarks"]["tasks"]["rte"]["scores"] == [0.5, 0.7]


def test_models_of_one_name_are_told_apart(results, tmp_path):
    one = results("a", rte=task(0.5))
    other = tmp_path / "more" / "a"
    other.mkdir(parents=True)
    (other / "summary.json").write_text((tmp_path / "evaluations" / "a" / "summary.json").read_text())
    assert [row["name"] for row in compare([one, other])["rows"]] == [one, str(other)]
