"""Questions from files: every accepted format gives the same rows, and what is wrong is named."""

import json

import pytest
from datasets import Dataset
from rows import each

from homodistil_hf.tasks import glue
from homodistil_hf.tasks.glue import load_task

CONTEXT = "Normandy is a region in France. “É” – and 東京."


def row(identity, *answers):
    return {
        "id": identity,
        "title": "Normans",
        "context": CONTEXT,
        "question": f"Where is {identity}?",
        "answers": {"text": list(answers), "answer_start": [CONTEXT.index(answer) for answer in answers]},
    }


TRAIN = [row("a", "France"), row("b"), row("c", "É", "東京"), row("d", "region")]
DEV = [row("e", "Normandy", "France"), row("f")]


def official(rows):
    """As SQuAD's own files nest them."""
    asked = [
        {
            "id": row["id"],
            "question": row["question"],
            "is_impossible": not row["answers"]["text"],
            "answers": [
                {"text": text, "answer_start": start}
                for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
            ],
        }
        for row in rows
    ]
    paragraphs = [{"context": CONTEXT, "qas": asked[:1]}, {"context": CONTEXT, "qas": asked[1:]}]
    return {"version": "v2.0", "data": [{"title": "Normans", "paragraphs": paragraphs}]}


def write(folder, train=TRAIN, dev=DEV, *, form="parquet"):
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("validation" if form == "parquet" else "dev", dev)):
        if form == "parquet":
            Dataset.from_list(rows).to_parquet(folder / f"{name}.parquet")
        elif form == "lines":
            (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
        else:
            values = {"list": rows, "object": {"data": rows}, "official": official(rows)}[form]
            (folder / f"{name}-v2.0.json").write_text(json.dumps(values))
    return folder


def without_title(rows):
    return [{name: value for name, value in row.items() if name != "title"} for row in rows]


@pytest.mark.slow
@each("form", ["parquet", "lines", "list", "object", "official"])
def test_every_format_gives_the_same_rows(tmp_path, form):
    data = load_task("squad_v2", write(tmp_path, form=form))
    assert data.train.to_list() == without_title(TRAIN)
    assert data.dev["validation"].to_list() == without_title(DEV)
    assert (data.task, data.name) == ("squad_v2", "squad_v2")
    assert data.sha256 == load_task("squad_v2", write(tmp_path / "other")).sha256


@each("form", ["parquet", "lines"])
def test_questions_without_ids_have_their_places(tmp_path, form):
    rows = [{name: value for name, value in row.items() if name != "id"} for row in TRAIN]
    data = load_task("squad_v2", write(tmp_path, rows, form=form))
    assert data.train["id"][:] == [str(place) for place in range(1, len(TRAIN) + 1)]


def test_every_change_of_a_row_changes_the_digest(tmp_path):
    digests = {load_task("squad_v2", write(tmp_path / "0")).sha256}
    for number, change in enumerate(({"id": "x"}, {"question": "?"}, {"answers": row("a")["answers"]}), start=1):
        digests.add(load_task("squad_v2", write(tmp_path / str(number), [TRAIN[0] | change, *TRAIN[1:]])).sha256)
    assert len(digests) == 4


@pytest.mark.slow
@each(
    ("folder", "task", "name"),
    [
        ("squad_v2", "squad_v2", "squad_v2"),
        ("squad_v2_part", "squad_v2", "squad_v2_part"),
        ("squad_v2", "squad", "squad_part"),
        ("squad_v2_part", "squad", "squad_part"),
    ],
)
def test_parts_are_called_parts(tmp_path, folder, task, name):
    write(tmp_path / folder)
    for data_dir in (tmp_path, tmp_path / folder):
        data = load_task(task, data_dir)
        assert data.name == name
        assert len(data.train) == (4 if task == "squad_v2" else 3)


def test_a_folder_of_the_task_itself_comes_first(tmp_path):
    write(tmp_path / "squad_v2")
    write(tmp_path / "squad", [TRAIN[0]], [DEV[0]])
    data = load_task("squad", tmp_path)
    assert (data.name, data.train["id"][:]) == ("squad", ["a"])


@pytest.mark.parametrize(
    ("train", "task", "message"),
    [
        ([TRAIN[0], TRAIN[0]], "squad_v2", "train of .* has id='a' 2 times; expected one row a question"),
        (TRAIN, "squad", "question id='b' has no answer; take the task squad_v2, or drop such rows"),
        (
            [TRAIN[0] | {"answers": {"text": ["France"], "answer_start": [0]}}],
            "squad_v2",
            "question id='a' has answer_start=0, where the context reads 'Norman', not 'France'",
        ),
    ],
)
def test_wrong_questions_are_named(tmp_path, train, task, message):
    with pytest.raises(ValueError, match=message):
        load_task(task, write(tmp_path, train))


@each(
    ("train", "message"),
    [
        ([{"id": "a", "question": "?"}], "train.parquet' lacks the column 'context'; expected id, context, question"),
        ([{"text": "a", "id": "b"}], "lacks the column 'context'; expected .*, answers; it has 'id', 'text'$"),
        ([TRAIN[0] | {"answers": None}, TRAIN[1]], "has rows without 'answers'; expected empty lists"),
        (
            [TRAIN[0] | {"answers": ["France"]}],
            "has answers=.*France.*; expected the lists text and answer_start",
        ),
    ],
)
def test_wrong_columns_are_named(tmp_path, train, message):
    with pytest.raises(ValueError, match=message):
        load_task("squad_v2", write(tmp_path, train))


@each(
    ("text", "message"),
    [
        ('{"version": "1.1"}', "expected a list of rows, or an object with such a list, data"),
        ("[]", "expected a list of rows"),
        ("{", "is no JSON"),
        ('{"data": [{"paragraphs": [{"qas": []}, {"qas": [{"id": "a"}]}]}]}', "is no SQuAD file: 'question'; exp"),
        ('[{"id": "a", "context": "b"}, {"q": 1}]', "lacks the column 'question'; .*; it has 'context', 'id', 'q'$"),
        ('{"data": [{"paragraphs": 3}]}', "is no SQuAD file: 'int' object is not iterable"),
    ],
)
def test_wrong_json_is_named(tmp_path, text, message):
    write(tmp_path, form="list")
    (tmp_path / "train-v2.0.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_task("squad_v2", tmp_path)


@each(
    ("line", "message"),
    [
        (b"\xff", "train.jsonl' is no UTF-8 text"),
        (b"3", "row 2 is 3; expected an object a row"),
        (b'{"id": ', "line 2 is no JSON"),
        (json.dumps(TRAIN[0] | {"answers": {"text": [None], "answer_start": [0]}}).encode(), "without empty entries"),
        (json.dumps(TRAIN[0] | {"answers": {"text": None, "answer_start": [0]}}).encode(), "without empty entries"),
    ],
)
def test_wrong_lines_are_named(tmp_path, line, message):
    write(tmp_path, form="lines")
    path = tmp_path / "train.jsonl"
    path.write_bytes(path.read_bytes().split(b"\n")[1] + b"\n" + line)
    with pytest.raises(ValueError, match=message):
        load_task("squad_v2", tmp_path)


def test_no_questions_are_an_error(tmp_path):
    write(tmp_path)
    Dataset.from_list(DEV).select([]).to_parquet(tmp_path / "validation.parquet")
    with pytest.raises(ValueError, match="validation of .* has 0 questions; expected at least one"):
        load_task("squad_v2", tmp_path)


def test_missing_and_ambiguous_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="data_dir='.*nowhere' is no folder; expected one with train.parquet and"):
        load_task("squad", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has none for train; expected one file: train.parquet"):
        load_task("squad", tmp_path)
    write(tmp_path)
    write(tmp_path, form="list")
    with pytest.raises(ValueError, match="has train-v2.0.json, train.parquet for train; expected one file"):
        load_task("squad_v2", tmp_path)


def test_the_hub_is_asked_where_no_folder_is_given(monkeypatch):
    asked = []

    def load_dataset(name, *, split):
        asked.append((name, split))
        return Dataset.from_list(TRAIN if split == "train" else DEV)

    monkeypatch.setattr(glue.datasets, "load_dataset", load_dataset)
    data = load_task("squad_v2")
    assert asked == [("rajpurkar/squad_v2", "train"), ("rajpurkar/squad_v2", "validation")]
    assert data.train.column_names == ["id", "context", "question", "answers"]


def test_a_hub_that_does_not_answer_is_told(monkeypatch):
    def load_dataset(name, *, split):
        raise ConnectionError("no route\nsecond line")

    monkeypatch.setattr(glue.datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match=r"from the Hub \(rajpurkar/squad: no route\); check the connection, or name"):
        load_task("squad")


@pytest.mark.slow
@pytest.mark.real_data
def test_real_questions(real_data):
    data = load_task("squad_v2", real_data)
    assert (data.name, len(data.train), len(data.dev["validation"])) == ("squad_v2_part", 4806, 1272)
    first = load_task("squad", real_data)
    assert (first.name, len(first.train), len(first.dev["validation"])) == ("squad_part", 2293, 617)
