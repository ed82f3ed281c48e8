"""The page of results, the README's table and the planner's advice: those in the repository, and those by hand."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from sweep_records import MACHINE, METHODS, add_record, graded, model, record, teacher, write_results

from benchmarks.results import page
from benchmarks.results.advice import advice_points
from benchmarks.results.levers import ARMS, SIZES
from benchmarks.results.students import Results
from benchmarks.results.tables import Tables
from benchmarks.results.verdicts import METRICS
from homodistil_hf.experiments.sweep.folder import write_record
from homodistil_hf.plans.advice import ADVICE_FILE, read_advice, to_json

CHECKOUT = Path(__file__).parents[3]
MAX_LINES, MAX_FIRST_SCREEN = 350, 40
README = "# Ours\n\n<!-- results -->\nold\n<!-- /results -->\n\nThe rest.\n"


@pytest.fixture(scope="module")
def committed() -> Tables:
    return Tables(Results.read(CHECKOUT / page.FOLDER, CHECKOUT / page.SWEEPS))


@pytest.fixture(scope="module")
def text() -> str:
    return (CHECKOUT / page.PAGE).read_text(encoding="utf-8")


def test_the_page_in_the_repository_is_that_of_the_records_beside_it(committed, text):
    assert text == page.page_text(committed)


def test_the_readmes_table_is_that_of_the_records(committed):
    readme = (CHECKOUT / page.README).read_text(encoding="utf-8")
    assert readme.partition("<!-- results -->")[2].partition("<!-- /results -->")[0].strip().splitlines() == (
        committed.what_you_get()
    )


def test_the_planners_advice_is_that_of_the_records(committed):
    points = to_json(page.TEACHER_WORDS, advice_points(committed.results, committed.noises))
    assert json.loads(ADVICE_FILE.read_text(encoding="utf-8")) == points


def test_the_page_is_one_that_can_be_read(text):
    lines = text.splitlines()
    assert len(lines) <= MAX_LINES
    assert next(number for number, line in enumerate(lines) if line.startswith("## 1.")) <= MAX_FIRST_SCREEN
    assert [line for line in lines if line.startswith("## ")][-1] == "## Appendix"


def test_the_page_names_only_files_and_headings_that_are_there(text):
    pictures = set(re.findall(r"\(results/(\S+)\)", text))
    drawn = {file.name for file in (CHECKOUT / page.FOLDER).glob("*.png")}
    assert pictures == {name for name in drawn if not name.startswith("speed-")}
    modules = {part.split()[0] for part in text.split("python -m ")[1:]}
    assert all((CHECKOUT / f"{name.strip('`').replace('.', '/')}.py").is_file() for name in modules)
    headings = [line.lstrip("# ").lower() for line in text.splitlines() if line.startswith("#")]
    anchors = {re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


def test_every_figure_that_the_words_ask_for_is_of_an_arm_that_a_sweep_has(committed):
    words = (CHECKOUT / "benchmarks" / "results" / "page.md").read_text(encoding="utf-8")
    for name, *given in map(str.split, re.findall(r"\{tables\[([^\]]+)\]\}", words)):
        assert hasattr(committed, name)
        arms = {
            cell.arm
            for sweep in given
            if sweep in committed.results.sweeps
            for cell in committed.results.sweeps[sweep].cells
        }
        short = {*SIZES, *ARMS, "500"} if name == "short_gap" else set()
        assert set(given) <= {*committed.results.sweeps, *arms, *METRICS, *short}, (name, given)


def test_every_record_is_of_a_sweep_that_is_told(committed):
    assert {file.stem for file in (CHECKOUT / page.FOLDER).glob("*.jsonl")} <= committed.results.sweeps.keys()
    held_out = {file.stem for file in (CHECKOUT / page.FOLDER / "held_out").glob("*.json")}
    assert held_out <= committed.results.sweeps.keys()


@pytest.fixture
def write(monkeypatch, tmp_path) -> Any:
    """Writes the page into a folder of the test and returns its text; takes words of the command line."""
    names = {"FOLDER": "results", "PAGE": "results.md", "ADVICE_FILE": "advice.json", "README": "README.md"}
    for name, file in names.items():
        monkeypatch.setattr(page, name, tmp_path / file)
    monkeypatch.setattr(page, "SWEEPS", CHECKOUT / page.SWEEPS)
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "results").mkdir()

    def run(*words: Any) -> str:
        monkeypatch.setattr(sys, "argv", ["page.py", *map(str, words)])
        page.main()
        return (tmp_path / "results.md").read_text(encoding="utf-8")

    return run


def test_without_records_everything_is_not_run_yet(write, tmp_path):
    text = " ".join(write().split())
    assert "reach a KL of not run yet at 1/4 (not run yet on all text) and not run yet at 1/8" in text
    assert text.count("Not run yet: `") == len(list((CHECKOUT / page.SWEEPS).glob("*.json"))) - 1  # smoke has no place
    assert not re.search(r"\d\.\d{3}", text)
    assert "| HomoDistil | 1/4 | – | – | – | not run yet |" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert not list((tmp_path / "results").glob("*.png"))


def test_a_readme_without_marks_is_refused(write, tmp_path):
    (tmp_path / "README.md").write_text("# Ours\n")
    with pytest.raises(ValueError, match="the page has 0 places marked results"):
        write()


def test_the_page_is_written_from_the_records_that_there_are(write, tmp_path):
    arms = {
        "homodistil": (0.5, {}),
        "no_kl": (0.7, {"kl_weight": 0}),
        "platon": (0.51, {"importance_metric": "platon"}),
    }
    ablations = [record(arm, kl, method="homodistil", **settings) for arm, (kl, settings) in arms.items()]
    ablations[1]["machine"] = MACHINE | {"processor": "another"}
    five = [record("five_layers_planned", 0.4, method="shallow") | {"method_settings": {"num_layers": 5}}]
    for name, records in (("methods_quarter", [*METHODS, *five]), ("ablations", ablations)):
        for one in records:
            write_record(tmp_path / "runs" / name / "results" / f"{one['cell']}.json", one)
    text = write("--collect", tmp_path / "runs")
    lines = " ".join(text.split())
    assert "| `one_shot` | 192-8x24-704 | 0.620 ± 0.035 (3) | +0.100 ± 0.020 (3), **worse** |" in text
    assert "| `no_kl` − `homodistil` | `kl_weight=0` | 0.700 | +0.200, **worse** |" in text
    assert "1/4 nearer at 2, level at 0, farther at 0 of 2" in lines
    assert "KL, nats 0.044 (0.0158, 4); accuracy 0.000 (0.0000, 4)." in lines
    assert "3 runs of 18 to 18 minutes." in lines
    assert "15 runs, 4.4 hours on a processor (1 thread, torch 2.0), another (1 thread, torch 2.0)," in lines
    for picture in ("sizes", "training"):
        assert (tmp_path / "results" / f"{picture}.png").stat().st_size > 1000
    assert write() == text
    words, (point,) = read_advice(tmp_path / "advice.json")
    assert "6 layers × 384" in words
    assert (point.encoder_macs, point.num_tokens, point.num_seeds) == (0.25, 1_000_000, 3)
    assert (point.kl, point.one_shot_kl, point.accuracy_kept, point.verdict) == (0.52, 0.62, 0.6, "homodistil")
    assert (point.learning_rate, point.fewer_layers) == (0.002, {"5": -0.1})


def test_the_readme_gets_the_first_table_of_the_page(write, tmp_path):
    for one in METHODS:
        add_record(tmp_path / "results" / "methods_quarter", one)
    text = write()
    lines = (tmp_path / "README.md").read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert (lines[0], lines[-1], "old" in lines) == ("# Ours", "The rest.", False)
    assert len(table) == 2 + 5
    assert "\n".join(table) in text


def test_words_are_laid_out_and_tables_left_alone():
    long = " ".join(["word"] * 40)
    text = page.wrapped(f"# {long}\n\n{long}\n\n- {long}\n- b\n\n| {long} |\n\n    {long}")
    lines = text.splitlines()
    assert [line for line in lines if len(line) > 120] == [f"# {long}", f"| {long} |", f"    {long}"]
    assert lines[lines.index("- b") - 1].startswith("  word")


def points_of(write, folder: Path) -> list[Any]:
    write()
    return read_advice(folder / "advice.json")[1]


def test_advice_lays_methods_beside_each_other_shape_by_shape_and_takes_the_better_shape(write, tmp_path):
    for arm, student, kl, steps in [
        ("homodistil", "144-6x24-400", 0.5, 250),
        ("one_shot", "144-6x24-400", 0.6, 250),
        ("homodistil", "160-8x20-288", 0.4, 500),
        ("one_shot", "160-8x20-288", 0.45, 500),
        ("homodistil", "128-4x32-512", 0.3, 1000),  # without a run of one-shot pruning beside it
    ]:
        cell = f"{arm},max_steps={steps},seed=0"
        add_record(tmp_path / "results" / "tokens_planned", record(arm, kl, student=student) | {"cell": cell})
    (point,) = points_of(write, tmp_path)
    assert (point.glue_kept, point.one_shot_glue_kept) == (None, None)
    assert (point.shape, point.kl, point.one_shot_kl) == ("160-8x20-288", 0.4, 0.45)


def test_advice_holds_what_is_kept_on_tasks_and_what_equal_computation_changes(write, tmp_path):
    every = [graded(record("homodistil", 0.5), 0.6), graded(record("one_shot", 0.6), 0.5), teacher(0.8)]
    for one in [*every, record("one_shot_same_compute", 0.55, method="one_shot")]:
        add_record(tmp_path / "results" / "methods_quarter", one)
    kls = {"homodistil": 0.4, "one_shot": 0.5, "one_shot_same_compute": 0.45}
    write_results(tmp_path / "results", "methods_quarter", [model(arm, 0, kl) for arm, kl in kls.items()])
    (point,) = points_of(write, tmp_path)
    assert (point.kl, point.glue_kept, point.one_shot_glue_kept) == (0.4, 0.75, 0.625)
    assert point.same_compute_gap == pytest.approx(0.05)
