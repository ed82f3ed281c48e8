"""Bounds of shares: quantiles of SciPy, coverage, groups, what verify asks for; answers of classifiers by them."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from rows import each
from tiny_files import own_cache
from tiny_models import make_teacher, randomized, tiny_tokenizer
from transformers import BertForSequenceClassification, BertForTokenClassification

from homodistil_hf import export_student
from homodistil_hf.cli import main
from homodistil_hf.evaluation.guarantee import (
    CONFIDENCE,
    _first_tokens,
    answers,
    evaluate_classes,
    guarantee,
    guarantee_problems,
    largest_share,
    least_of,
    length_groups,
)
from homodistil_hf.models.conversion import to_student


@each(("num_changed", "num_rows"), [(0, 1), (0, 50), (3, 50), (50, 50), (49, 50), (700, 20_000)])
@each("confidence", [0.5, 0.95, 0.9999])
def test_bounds_are_quantiles_of_the_beta_distribution(num_changed, num_rows, confidence):
    stats = pytest.importorskip("scipy.stats")
    expected = 1.0 if num_changed == num_rows else stats.beta.ppf(confidence, num_changed + 1, num_rows - num_changed)
    assert largest_share(num_changed, num_rows, confidence=confidence) == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("num_rows", [20, 60])
def test_bounds_hold_as_often_as_they_say_whatever_the_share(num_rows):
    """Over all outcomes, weighted by their chance: never less than the confidence, which is met closely somewhere."""
    stats = pytest.importorskip("scipy.stats")
    bounds = np.array([largest_share(number, num_rows) for number in range(num_rows + 1)])
    shares = np.linspace(0.001, 0.999, 499)
    chances = stats.binom.pmf(np.arange(num_rows + 1)[:, None], num_rows, shares)
    coverage = (chances * (bounds[:, None] >= shares)).sum(0)
    assert coverage.min() >= CONFIDENCE - 1e-12
    assert coverage.min() < CONFIDENCE + 0.01


@pytest.mark.slow
def test_bounds_of_groups_hold_all_together():
    """Three languages whose answers change more or less often: the chance, over all outcomes, that no bound fails."""
    stats = pytest.importorskip("scipy.stats")
    shares = {"de": 0.02, "en": 0.1, "fr": 0.3}
    coverage = dict.fromkeys(shares, 0.0)
    for number in range(41):
        found = guarantee(([True] * number + [False] * (40 - number)) * 3, {"language": np.repeat(list(shares), 40)})
        for name, part in found["groups"]["language"].items():
            if part["at_least"] <= 1 - shares[name]:
                coverage[name] += stats.binom.pmf(number, 40, shares[name])
    assert CONFIDENCE <= np.prod(list(coverage.values())) < 1


def test_groups_have_their_own_counts_and_stricter_bounds():
    changed = [number % 10 == 0 for number in range(100)]
    languages = ["en"] * 50 + ["de"] * 45 + ["fr"] * 5
    found = guarantee(changed, {"language": languages, "source": ["a", "b"] * 50})
    assert (found["num_rows"], found["num_changed"], found["agreement"]) == (100, 10, 0.9)
    confidence = 1 - 0.05 / 5  # of two groups of either column, and all rows: one union bound
    assert found["at_least"] == 1 - largest_share(10, 100, confidence=confidence)
    parts = found["groups"]["language"]
    assert list(parts) == ["de", "en"]  # five rows bound nothing
    assert (parts["en"]["num_rows"], parts["en"]["num_changed"]) == (50, 5)
    assert parts["en"]["at_least"] == 1 - largest_share(5, 50, confidence=confidence)


def test_lengths_make_three_groups():
    texts = [" ".join(["w"] * number) for number in range(1, 10)]
    assert length_groups(texts) == ["≤ 3"] * 3 + ["4–6"] * 3 + ["≥ 7"] * 3
    assert length_groups(["w"] * 5) == ["≤ 1"] * 5
    found = guarantee([False] * 180, {"words": length_groups(texts * 20)})
    assert list(found["groups"]["words"]) == ["≤ 3", "4–6", "≥ 7"]


@each(
    ("least", "where"),
    [
        ({}, []),
        ({"agreement": 0.9}, []),
        ({"agreement": 0.99}, ["mine"]),
        ({"agreement_of_groups": 0.9}, ["mine, language: en"]),
        ({"agreement": 0.99, "agreement_of_groups": 0.9}, ["mine", "mine, language: en"]),
    ],
)
def test_bounds_that_do_not_hold_are_named(least, where):
    changed = [False] * 150 + [True, False] * 5
    found = {"mine": guarantee(changed, {"language": ["de"] * 140 + ["en"] * 20})}
    assert [line.partition(": expected answers")[0] for line in guarantee_problems(found, least)] == where


def test_a_bound_that_fails_is_rounded_down():
    found = {"mine": guarantee([True] * 10 + [False] * 50)}
    assert 0.7337 < found["mine"]["at_least"] < 0.7338
    (line,) = guarantee_problems(found, {"agreement": 0.734})
    assert line == "mine: expected answers as the teacher's for at least 73.4%, found 73.3%"


def test_groups_that_are_too_small_bound_nothing():
    found = {"mine": guarantee([False] * 30, {"language": [str(number) for number in range(30)]})}
    (line,) = guarantee_problems(found, {"agreement_of_groups": 0.5})
    assert line == "mine: no guarantee of groups is recorded, as none has 20 rows"


@each("section", [None, {}, {"mine": {"at_least": 1.0}}, {"mine": 3}])
def test_a_guarantee_that_was_never_measured_does_not_hold(section):
    (line,) = guarantee_problems(section, {"agreement": 0.5})
    assert line.startswith("no guarantee is recorded; measure it on held-out rows first, by homodistil evaluate")


@each("word", ["agreement", "agreement=", "agreement=1.5", "agreement=nan", "cosine=0.9"])
def test_other_words_are_refused(word):
    with pytest.raises(ValueError, match="expected agreement or agreement_of_groups=SHARE, a share between 0 and 1"):
        least_of([word])
    assert least_of(["agreement=0.95"]) == {"agreement": 0.95}


# Answers of classifiers

NUM_ROWS = 50
TEXTS = [" ".join(f"w{10 + (row * part) % 60}" for part in range(1, 2 + row % 5)) for row in range(NUM_ROWS)]
LABELS = {"num_labels": 3}


def classifier(kind, **config):
    """Its classes depend on the text, as no class is likelier on the average."""
    model = make_teacher(kind, **config)
    with torch.no_grad():
        logits = model(**tiny_tokenizer()(TEXTS, padding=True, return_tensors="pt")).logits
        model.classifier.bias -= logits.flatten(0, -2).mean(0)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`teacher`, its nearly equal `student`, an export, and rows in two languages."""
    folder = tmp_path_factory.mktemp("classes")
    with pytest.MonkeyPatch.context() as monkeypatch:
        own_cache(monkeypatch, folder / "cache")
        teacher = classifier(BertForSequenceClassification, **LABELS)
        teacher.save_pretrained(folder / "teacher")
        tiny_tokenizer().save_pretrained(folder / "teacher")
        student = randomized(copy.deepcopy(teacher), std=0.02, seed=5)
        export_student(to_student(student), folder / "student", tokenizer=tiny_tokenizer())
        rows = [{"text": text, "language": "de" if row % 2 else "en"} for row, text in enumerate(TEXTS)]
        Dataset.from_list([*rows, {"text": None, "language": "en"}]).to_parquet(folder / "rows.parquet")
        yield folder


def words_of(folder, *more):
    words = ["evaluate", str(folder / "student"), "--task", "classes", "--eval_data", str(folder / "rows.parquet")]
    return [*words, "--teacher", str(folder / "teacher"), *more]


@pytest.mark.slow
@torch.no_grad()
def test_answers_are_those_one_by_one():
    """Rows of all lengths share batches here, and none is padded there."""
    tokenizer = tiny_tokenizer()
    for kind, settings in (
        (BertForSequenceClassification, LABELS),
        (BertForSequenceClassification, LABELS | {"problem_type": "multi_label_classification"}),
        (BertForTokenClassification, LABELS),
    ):
        model = classifier(kind, **settings).eval()
        expected = []
        for text in TEXTS:
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
            found = (logits > 0).tolist() if "problem_type" in settings else logits.argmax(-1).tolist()
            # of tokens those of words, which are one each here
            expected.append(found[1:-1] if kind is BertForTokenClassification else found)
        assert answers(model, tokenizer, [TEXTS], max_length=16) == expected
        assert len({str(answer) for answer in expected}) > 1


@pytest.mark.slow
def test_the_command_bounds_changes_and_records_them(folder, capsys):
    assert main(words_of(folder, "--group_columns", "language")) == 0
    told = capsys.readouterr().out
    models = [BertForSequenceClassification.from_pretrained(folder / name).eval() for name in ("student", "teacher")]
    own, theirs = (answers(model, tiny_tokenizer(), [TEXTS], max_length=16) for model in models)
    changed = [one != other for one, other in zip(own, theirs, strict=True)]
    assert 0 < sum(changed) < NUM_ROWS
    facts = json.loads((folder / "student" / "facts.json").read_text())
    found = facts["benchmarks"]["guarantee"]["rows.parquet"]
    assert (found["num_rows"], found["num_changed"]) == (NUM_ROWS, sum(changed))
    confidence = 1 - 0.05 / (1 + sum(map(len, found["groups"].values())))
    assert found["at_least"] == 1 - largest_share(sum(changed), NUM_ROWS, confidence=confidence)
    assert found["groups"]["language"]["de"]["num_changed"] == sum(changed[1::2])
    row = f"| rows.parquet | {NUM_ROWS} | {sum(changed)} |"
    assert row in told
    card = (folder / "student" / "README.md").read_text()
    assert row in card
    assert "exact bounds (Clopper–Pearson) that hold with 95% confidence" in card
    assert main(["verify", str(folder / "student"), "--least", "agreement=0.999"]) == 1
    assert "rows.parquet: expected answers as the teacher's for at least 99.9%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--group_columns", "source"], "eval_data lacks the column group_columns='source'"),
        (["--max_rows", "0"], "max_rows=0 is not a whole number of at least 1"),
    ],
)
def test_rows_that_cannot_be_used_are_told(folder, words, message, capsys):
    assert main(words_of(folder, *words)) == 2
    assert message in capsys.readouterr().err


def test_a_teacher_of_other_labels_is_refused(folder, tmp_path):
    make_teacher(BertForSequenceClassification, num_labels=4).save_pretrained(tmp_path / "four")
    make_teacher().save_pretrained(tmp_path / "words")
    values = make_teacher(BertForSequenceClassification, **LABELS, problem_type="regression")
    values.save_pretrained(tmp_path / "values")
    settings = {"eval_data": str(folder / "rows.parquet")}
    for name, message in (
        ("four", "teacher is a .* of the labels .*name the teacher that the mod"),
        ("words", "teacher is a BertForMaskedLM"),
        ("values", "teacher is a BertForSequenceClassification of 3 labels, for values; expected"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate_classes(folder / "student", teacher=tmp_path / name, settings=settings)
    with pytest.raises(ValueError, match="is compared with a teacher, and none is recorded: name --teacher"):
        evaluate_classes(folder / "teacher", settings=settings)
    with pytest.raises(ValueError, match="eval_data is not set; name held-out rows"):
        evaluate_classes(folder / "student", settings={})


def test_a_guarantee_ends_with_its_teacher(folder, tmp_path):
    """That of other rows stays beside the same teacher, not beside another, though it has the same name."""
    student, teacher = (shutil.copytree(folder / name, tmp_path / name) for name in ("student", "teacher"))
    other = shutil.copy(folder / "rows.parquet", tmp_path / "others.parquet")

    def sources(rows):
        evaluate_classes(student, teacher=teacher, settings={"eval_data": [str(rows)]})
        return set(json.loads((student / "facts.json").read_text())["benchmarks"]["guarantee"])

    sources(folder / "rows.parquet")
    assert sources(other) >= {"rows.parquet", "others.parquet"}
    randomized(BertForSequenceClassification.from_pretrained(teacher), std=0.01).save_pretrained(teacher)
    assert sources(other) == {"others.parquet"}


def test_bounds_are_of_whole_rows_unless_a_length_is_given(folder, tmp_path, caplog):
    student = shutil.copytree(folder / "student", tmp_path / "student")
    longer = [{"text": " ".join(f"w{10 + (row + place) % 60}" for place in range(10 + row % 4))} for row in range(20)]
    Dataset.from_list(longer).to_parquet(tmp_path / "longer.parquet")

    def found(**length):
        caplog.clear()
        settings = {"eval_data": [str(tmp_path / "longer.parquet")], **length}
        results = evaluate_classes(student, teacher=folder / "teacher", settings=settings)
        facts = json.loads((student / "facts.json").read_text())["benchmarks"]
        assert facts["guarantee_of"]["max_seq_length"] == results["max_seq_length"]
        return results["max_seq_length"], results["num_cut_rows"], facts["guarantee"]["longer.parquet"]["num_changed"]

    length, num_cut, _ = found()
    assert (length, num_cut) == (make_teacher().config.max_position_embeddings, 0)
    assert "are longer than" not in caplog.text
    assert found(max_seq_length=14)[:2] == (14, 5)  # 13 words and two special tokens
    assert "5 of 20 rows are longer than 14 tokens: answers are bounded to the first 14 of each; --max" in caplog.text


def test_a_teacher_of_fewer_positions_reads_the_same_rows(folder, tmp_path):
    short = classifier(BertForSequenceClassification, **LABELS, max_position_embeddings=12)
    short.save_pretrained(tmp_path / "short")
    tiny_tokenizer().save_pretrained(tmp_path / "short")
    Dataset.from_list([{"text": "w9 " * 20}] * 30).to_parquet(tmp_path / "longer.parquet")
    settings = {"eval_data": [str(tmp_path / "longer.parquet")]}
    results = evaluate_classes(
        folder / "student", teacher=tmp_path / "short", settings=settings, output_dir=tmp_path / "out"
    )
    assert (results["max_seq_length"], results["num_cut_rows"]) == (12, 30)
    with pytest.raises(ValueError, match="max_seq_length=14 is over the model's positions=12"):
        evaluate_classes(folder / "student", teacher=tmp_path / "short", settings=settings | {"max_seq_length": 14})


def test_first_tokens_of_words_are_found_whatever_the_pieces():
    # all of one piece, with the blanks in front of words, as some tokenizers have it; and a piece a word
    assert _first_tokens("ab c d", [(0, 0), (0, 1), (1, 2), (2, 4), (4, 6), (0, 0)], [None, 0, 0, 0, 0, None]) == [
        *(False, True, False, True, True, False)
    ]
    assert _first_tokens("ab c", [(0, 0), (0, 1), (1, 2), (3, 4)], [None, 0, 0, 1]) == [False, True, False, True]
