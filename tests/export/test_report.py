"""The page of a run: everything that is recorded, nothing from elsewhere; any folder of an older run."""

import json
import re
from html.parser import HTMLParser

import pytest
from rows import each

from homodistil_hf.cli import main
from homodistil_hf.export.report import closing_line, read_records, report_of, try_report, write_report
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import LayerWidths, WidthPlan

PLAN = WidthPlan.uniform(16, 2, LayerWidths(2, 8, 32))
HALF = WidthPlan.uniform(8, 2, LayerWidths(2, 4, 16))
CARD = """---
tags: []
---

# bert, 3.6× smaller

Made from `some <b>bert</b>` by pruning.

## How to use

```python
name = "."  # this folder
print(name)
```
"""


def costs(plan, size_bytes):
    found = {"plan": plan.to_dict(), "num_hidden_layers": 2, "encoder_macs": encoder_macs(plan)}
    return found | {"size_bytes": size_bytes, "num_parameters": size_bytes // 4}


FACTS = {
    "format": "standard",
    "teacher": costs(PLAN, 36_000_000) | {"name": "bert"},
    "student": costs(HALF, 10_000_000),
    "settings": {"seed": 42, "max_steps": 20, "run_name": None},
    "changed_settings": {"max_steps": 20, "train_data": ["text.parquet"]},
    "training": {"num_steps": 20},
    "evaluation": {"kl": 0.25, "mlm_accuracy": 0.3},
    "teacher_evaluation": {"kl": 0.0, "mlm_accuracy": 0.4},
    "latency": {
        "teacher_ms": 8,
        "student_ms": 4,
        "batch_size": 8,
        "length": 16,
        "device": "cpu",
        "machine": "Zen <5>",
    },
    "versions": {"torch": "2.13.0"},
    "card": {"how": "Units were dropped."},
}
KEPT = [{"hidden": 1.0, "attention": 1.0, "ffn": 1.0}, {"hidden": 0.5, "attention": 0.5, "ffn": 0.5}]
LOGS = [
    {"step": 5, "eval_kl": 1.5, "eval_loss": 4.5, "eval_mlm_loss": 4.5, "eval_mlm_accuracy": 0.1},
    {"step": 10, "loss": 4.0, "loss_kl": 2.0} | {f"kept_fraction_{kind}": value for kind, value in KEPT[0].items()},
    {"step": 20, "loss": 3.0, "loss_kl": 1.0} | {f"kept_fraction_{kind}": value for kind, value in KEPT[1].items()},
    {
        "step": 20,
        "eval_kl": 0.25,
        "eval_loss": 3.5,
        "eval_mlm_loss": 3.5,
        "eval_mlm_accuracy": 0.3,
        "eval_runtime": 1.0,
    },
]


def write(folder, *, facts=None, logs=None, results=None, card=None):
    (folder / "student").mkdir(parents=True)
    for file, content in (("student/facts.json", facts), ("results.json", results)):
        if content is not None:
            (folder / file).write_text(json.dumps(content))
    if logs is not None:
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": logs}))
    if card is not None:
        (folder / "student" / "README.md").write_text(card)
    return folder


@pytest.fixture
def run(tmp_path):
    return write(tmp_path / "run", facts=FACTS, logs=LOGS, results={"time_s": 12.0}, card=CARD)


RUNTIMES = {
    "rows": [
        {
            "target": "onnx",
            "file": "onnx/model.onnx",
            "runtime": "ONNX Runtime <8>",
            "size_bytes": 4_500_000,
            "is_written": True,
            "fidelity_name": "cosine",
            "figures": {"fidelity": 0.999},
            "latency_ms": {},
            "not_run": "",
        }
    ]
}


class Page(HTMLParser):
    """Headings, table cells and titles of pictures of a page, whose tags have to be closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.tags, self.links = [], {}, set(), []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        if tag not in ("meta", "path", "rect", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.words.setdefault(self.open[-1], []).append(data)


def test_a_page_has_all_parts_and_nothing_from_elsewhere(run):
    text = write_report(run).read_text()
    page = Page(text)
    assert page.words["h1"] == ["bert, 3.6× smaller"]
    assert page.words["h2"] == ["What was won", "Training", "Shape", "How it was made", "Next"]
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert page.links == []
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", text)
    cells = page.words["td"]
    for row in (("weights", "36 MB", "10 MB", "3.6× smaller"), ("masked-word accuracy", "40.0 %", "30.0 %", "75 %")):
        assert tuple(cells[cells.index(row[0]) :][:4]) == row
    assert "<p class=won>3.6× smaller, 2× faster here, keeps 75 % of masked-word accuracy.</p>" in text
    assert "Times are of Zen &lt;5&gt;." in text
    assert "some &lt;b&gt;bert&lt;/b&gt;" in text
    assert "20 optimizer steps, 12 s." in text
    assert "text.parquet" in cells
    assert f"name = '{run}/student'\nprint(name)" in "".join(page.words["code"])
    assert f"homodistil push {run}/student USER/NAME --dry_run" in text


def test_curves_are_of_the_logs(run):
    page = Page(report_of(read_records(run)))
    titles = [words for words in page.words["text"] if words.startswith(("training", "kept", "held out"))]
    assert titles == [
        "training loss",
        "kept of what it started from",
        "held out: KL to the teacher, nats a prediction",
        "held out: masked-word accuracy",
        "held out: masked-LM loss, nats a token",
    ]
    assert read_records(run).line("kept_fraction_ffn") == [(10, 1.0), (20, 0.5)]


@each(("own", "num_charts"), [(0.75, 1), (0.5, 2)])
def test_a_users_metric_has_a_chart_where_it_is_no_measured_one(tmp_path, own, num_charts):
    logs = [{"step": step, "eval_task_accuracy": 0.75, "eval_accuracy": own} for step in (1, 2)]
    page = report_of(read_records(write(tmp_path / "run", logs=logs, results={"time_s": 1.0})))
    assert page.count("held out: accuracy</text>") == num_charts


def test_a_long_run_has_a_short_page_with_its_last_value(tmp_path):
    logs = [{"step": step, "loss": 1 / step} for step in range(1, 50_001)]
    run = write(tmp_path / "run", facts=FACTS, logs=logs)
    line = read_records(run).line("loss")
    assert (len(line), line[-1]) == (400, (50_000, 1 / 50_000))
    assert len(write_report(run).read_text()) < 30_000


def test_runtimes_have_a_table(tmp_path):
    text = report_of(read_records(write(tmp_path / "run", facts=FACTS | {"runtimes": RUNTIMES})))
    assert "<h2>Runtimes</h2>" in text
    assert "<td>onnx/model.onnx</td><td>ONNX Runtime &lt;8&gt;</td><td>4.5</td><td>cosine .9990</td>" in text


def test_a_stopped_run_has_its_logs_in_its_newest_checkpoint(tmp_path):
    run = write(tmp_path / "run", facts=FACTS)
    for step in (10, 20):
        place = run / f"checkpoint-{step}"
        place.mkdir()
        entry = {"step": step, "loss": float(step), "grad_norm": float("nan")}
        (place / "trainer_state.json").write_text(json.dumps({"log_history": [entry]}))
    records = read_records(run)
    assert (records.line("loss"), records.line("grad_norm")) == ([(20, 20.0)], [])


def test_the_last_of_many_rounds_is_the_student(tmp_path):
    run = write(tmp_path / "run")
    (run / "student").rmdir()
    for number in (10, 2, 9):
        write(run / f"round-{number}", facts=FACTS, logs=LOGS)
    found = read_records(run)
    assert [part.folder.name for part in found.parts] == ["round-2", "round-9", "round-10"]
    assert found.student == run / "round-10" / "student"


def test_the_members_of_a_chain_are_lines_of_one_picture(tmp_path):
    models = [{"name": name, "kl": kl} for name, kl in (("teacher", 0.0), ("1-a", 0.5), ("2-b", 0.75))]
    members = [{"folder": "1-a"}, {"folder": "2-b"}]
    run = write(tmp_path / "run", results={"models": models, "members": members})
    (run / "student").rmdir()
    for name in ("2-b", "1-a", "10-c"):
        write(run / name, facts=FACTS, logs=LOGS)
    assert [part.folder.name for part in read_records(run).parts] == ["1-a", "2-b", "10-c"]
    page = Page(write_report(run).read_text())
    assert page.words["text"].count("1-a") == page.words["text"].count("2-b") > 3
    assert page.words["td"][page.words["td"].index("1-a") + 1] == "0.5"
    assert closing_line(run).startswith("3.6× smaller, 2× faster here, ")


def test_the_command_says_what_was_won(run, tmp_path, capsys):
    assert main(["report", str(run)]) == 0
    won = "3.6× smaller, 2× faster here, keeps 75 % of masked-word accuracy"
    assert capsys.readouterr().out == f"{won}; {run}/report.html\n"
    assert closing_line(run) == f"{won}; {run}/report.html"
    assert main(["report", str(run / "student"), "--output", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out == f"{won}; {tmp_path}/page.html\n"
    assert (tmp_path / "page.html").read_text() == (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "does not exist; name the output_dir of a run"),
        (lambda folder: folder.mkdir(), "holds no records of a run (results.json, student/facts.json, trainer_state"),
        (lambda folder: write(folder).joinpath("results.json").write_text("{"), "results.json"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, make, message, capsys):
    make(tmp_path / "run")
    assert main(["report", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


@each("damaged", [3, [3], [{"title": "x", "headings": ["a"]}], [{"title": 1, "headings": [], "rows": []}]])
def test_tables_that_a_method_left_are_shown_and_damaged_ones_are_not(tmp_path, damaged):
    table = {"title": "Who asks <whom>", "headings": ["", "index"], "rows": [["half", "97.5"]]}
    page = Page(report_of(read_records(write(tmp_path / "run", results={"tables": [table]}))))
    assert "Who asks <whom>" in page.words["h2"]
    assert "97.5" in page.words["td"]
    without = report_of(read_records(write(tmp_path / "other", results={"x": 1})))
    run = write(tmp_path / "damaged", results={"x": 1, "tables": damaged})
    assert Page(report_of(read_records(run))).words["h2"] == Page(without).words["h2"]


@each("name", ["a\u00a0b", "a\u00adb", "a\\b", "a\\1g<0>", "a'b"])
def test_a_folder_may_have_any_name(tmp_path, name):
    run = write(tmp_path / name, facts=FACTS, card=CARD)
    assert f"name = {str(run / 'student')!r}\n" in "".join(Page(write_report(run).read_text()).words["code"])


def test_a_report_that_cannot_be_made_fails_no_run(run, caplog):
    (run / "report.html").mkdir()
    try_report(run)
    assert "no report.html was written" in caplog.text
    assert closing_line(run) == "3.6× smaller, 2× faster here, keeps 75 % of masked-word accuracy"
    caplog.clear()
    (run / "results.json").write_text("{")
    try_report(run)
    assert "no report.html was written" in caplog.text
    assert closing_line(run) == ""


def test_any_facts_have_a_page(run):
    """Of a stranger's folder, or of another version."""
    odd = {
        "teacher": 3,
        "student": {"plan": {"layers": "x"}},
        "runtimes": 5,
        "data": {"num_held_out_rows": 5, "held_out": 3},
        "latency": {"teacher_ms": 0.0, "student_ms": 1.0},
        "evaluation": {"kl": "x"},
        "settings": [],
    }
    (run / "student" / "facts.json").write_text(json.dumps(odd))
    (run / "trainer_state.json").write_text("[]")
    assert Page(report_of(read_records(run))).words["h1"] == ["bert, 3.6× smaller"]
    (run / "student" / "facts.json").write_text(json.dumps(odd | {"data": 3}))
    assert Page(report_of(read_records(run))).words["h1"] == ["bert, 3.6× smaller"]


def test_a_student_that_is_none_is_refused_and_folders_are_made(run, tmp_path, capsys):
    assert main(["report", str(run), "--student", str(tmp_path / "typo")]) == 2
    assert "typo' has no facts.json; name the export of the run" in capsys.readouterr().err
    assert main(["report", str(run), "--output", str(tmp_path / "new" / "page.html")]) == 0
    assert (tmp_path / "new" / "page.html").is_file()
