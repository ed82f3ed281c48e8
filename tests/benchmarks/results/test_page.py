"""The page of results, the README's table and the planner's advice: those in the repository, and those by hand."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from sweep_records import MACHINE, METHODS, add_record, graded, record, teacher

from benchmarks.results import page, readme
from benchmarks.results.advice import advice_points
from benchmarks.results.comparison import noises_of
from benchmarks.results.students import Results
from homodistil_hf.experiments.sweep.cells import Cell
from homodistil_hf.experiments.sweep.folder import record_head, write_record
from homodistil_hf.plans.advice import ADVICE_FILE, read_advice, to_json

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def committed() -> Results:
    return Results.read(CHECKOUT / page.FOLDER, CHECKOUT / page.SWEEPS)


def test_the_page_in_the_repository_is_that_of_the_records_beside_it(committed):
    assert (CHECKOUT / page.PAGE).read_text(encoding="utf-8") == page.page_text(committed)


def test_the_readmes_table_is_that_of_the_records(committed):
    lines = readme.readme_lines(committed, committed.json("constant_predictions"))
    text = (CHECKOUT / page.README).read_text(encoding="utf-8")
    assert text.partition(readme.BEGIN)[2].partition(readme.END)[0].strip("\n") == "\n".join(lines).strip("\n")


def test_the_planners_advice_is_that_of_the_records(committed):
    points = to_json(page.TEACHER_WORDS, advice_points(committed, noises_of(committed)))
    assert json.loads(ADVICE_FILE.read_text(encoding="utf-8")) == points


def test_the_page_names_only_files_that_are_there(committed):
    text = page.page_text(committed)
    for picture in (CHECKOUT / page.FOLDER).glob("*-*.png"):
        is_drawn = picture.name.split("-")[0] in (*committed.sweeps, "methods")
        assert (f"(results/{picture.name})" in text) == is_drawn
    modules = {part.split()[0] for part in text.split("python -m ")[1:]}
    assert all((CHECKOUT / f"{name.strip('`').replace('.', '/')}.py").is_file() for name in modules)


@pytest.fixture
def write(monkeypatch, tmp_path) -> Any:
    """Writes the page into a folder of the test and returns its text; takes words of the command line."""
    names = {"FOLDER": "results", "PAGE": "results.md", "ADVICE_FILE": "advice.json", "README": "README.md"}
    for name, file in names.items():
        monkeypatch.setattr(page, name, tmp_path / file)
    monkeypatch.setattr(page, "SWEEPS", CHECKOUT / page.SWEEPS)
    (tmp_path / "README.md").write_text(f"# Ours\n\n{readme.BEGIN}\nold\n{readme.END}\n\nThe rest.\n")

    def run(*words: Any) -> str:
        monkeypatch.setattr(sys, "argv", ["page.py", *map(str, words)])
        page.main()
        return (tmp_path / "results.md").read_text(encoding="utf-8")

    return run


def test_without_records_nothing_is_claimed(write, tmp_path):
    text = write()
    assert text.count("not run: none of its") == len(list((CHECKOUT / page.SWEEPS).glob("*.json"))) - 1
    assert "Not run: they need about 100 hours of an A100 a student" in text
    assert "## In short" not in text
    lines = (tmp_path / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line] == ["# Ours", readme.BEGIN, readme.END, "The rest."]


def test_a_readme_without_marks_is_refused(write, tmp_path):
    (tmp_path / "README.md").write_text("# Ours\n")
    with pytest.raises(ValueError, match="README.md lacks '<!-- written by"):
        write()


def test_the_page_is_written_from_the_records_that_there_are(write, tmp_path):
    kls = {"homodistil": 0.5, "no_kl": 0.7, "platon": 0.51}
    ablations = [record(arm, kl, method="homodistil") for arm, kl in kls.items()]
    ablations[1]["machine"] = MACHINE | {"processor": "another"}
    five = [
        record("five_layers", 0.4 + 0.01 * seed, seed=seed, method="shallow") | {"method_settings": {"num_layers": 5}}
        for seed in range(3)
    ]
    wide = record("wide_layers", 0.45, method="shallow") | {"method_settings": {"num_layers": 5}}  # farther: not told
    late = [record("end_0.5", kl, seed=seed, method="homodistil") for seed, kl in enumerate((0.51, 0.53, 0.55))]
    halves = [record("homodistil", 0.2, macs=500, accuracy=0.45)]
    quarters = [*METHODS, *five, wide, *late]
    for name, records in (("methods_quarter", quarters), ("ablations", ablations), ("methods_half", halves)):
        for one in records:
            write_record(tmp_path / "runs" / name / "results" / f"{one['cell']}.json", one)
    text = write("--collect", tmp_path / "runs")
    lines = text.splitlines()
    # Five layers' differences are -.10, -.11, -.12, end_0.5's .01 each: (2 · (.0004 + .0001 + .0001 + 0) / 8)^½.
    assert "| KL, nats | the sweeps' blocks | 0.0122 | 8 | 0.028 |" in lines
    level = "+0.000 ± 0.000 (3), within noise | – |"
    assert f"| `one_shot` − `homodistil` | 192-8x24-704 | +0.100 ± 0.020 (3), **farther** | {level}" in lines
    assert "| `homodistil` beside `one_shot` | ahead in 2 of 2 | – |" in lines
    assert "| `homodistil` beside `pruned_first` | ahead in 0 of 2, level in 2 | – |" in lines
    assert "| `end_0.5` beside `one_shot` | ahead in 2 of 2 | **reproduced** |" in lines
    assert "| the KL term helps | the paper | `no_kl` − `homodistil` | +0.200 | **reproduced** |" in lines
    assert "| the masked-LM term helps | the paper | `no_mlm` − `mlm_1` | – | not run: `no_mlm`, `mlm_1` |" in lines
    assert "| 1/2 | all | 192-8x24-704 | 1.00 M |" in text
    machines = ("a processor, 1 thread(s) of 2 cores; torch 2.0", "another, 1 thread(s) of 2 cores; torch 2.0")
    assert f"Machine: {machines[0]} and {machines[1]}. 3 cells took" in text
    for image in ("methods_quarter-discrepancy", "methods_quarter-pruned", "methods-parameters"):
        assert f"![{image}](results/{image}.png)" in lines
        assert (tmp_path / "results" / f"{image}.png").stat().st_size > 1000
    assert write() == text
    words, (point,) = read_advice(tmp_path / "advice.json")
    assert "6 layers × 384" in words
    assert (point.encoder_macs, point.num_tokens, point.num_seeds) == (0.25, 1_000_000, 3)
    assert (point.kl, point.one_shot_kl, point.accuracy_kept, point.verdict) == (0.52, 0.62, 0.6, "homodistil")
    assert point.fewer_layers == {"5": -0.11}


def test_what_is_kept_is_a_share_of_the_sweeps_own_teacher(write, tmp_path):
    """A run that stands in two sweeps is one training: 3 of 1,060 seconds each."""
    quarters = [teacher(0.8), *(graded(one, 0.736 + 0.008 * place) for place, one in enumerate(METHODS[:3]))]
    for one in [*quarters, graded(METHODS[3], 0.1)]:
        add_record(tmp_path / "results" / "methods_quarter", one)
    add_record(tmp_path / "results" / "computation", METHODS[0] | {"taken_from": "methods_quarter/homodistil,seed=0"})
    for one in (teacher(0.5), graded(record("homodistil", 0.2, macs=500), 0.48)):
        add_record(tmp_path / "results" / "methods_half", one)
    lines = write().splitlines()
    asked = {line.split(" | ")[0]: line.split(" | ")[1:] for line in lines if line.startswith("| D")}
    share = "of its teacher's mean over five GLUE tasks?"
    assert asked[f"| Does a quarter keep 92 % {share}"] == ["93.0% ± 1.0% (3)", "**yes**, by the mean of 3 seeds |"]
    assert asked[f"| Does a half keep 97 % {share}"] == ["96.0%", "**no**, one seed |"]
    assert any("| 1.5 hours, 5 trainings with their evaluations |" in line for line in lines)


def test_advice_lays_methods_beside_each_other_shape_by_shape_and_takes_the_better_shape(write, tmp_path):
    for arm, student, kl in [
        ("homodistil", "144-6x24-400", 0.5),
        ("one_shot", "144-6x24-400", 0.6),
        ("homodistil", "160-8x20-288", 0.4),
        ("one_shot", "160-8x20-288", 0.45),
        ("homodistil", "128-4x32-512", 0.3),  # without a run of one-shot pruning beside it
    ]:
        add_record(
            tmp_path / "results" / "shapes",
            record(arm, kl, student=student) | {"cell": f"{arm},student={student},seed=0"},
        )
    write()
    _, (point,) = read_advice(tmp_path / "advice.json")
    assert (point.glue_kept, point.one_shot_glue_kept) == (None, None)
    assert (point.shape, point.kl, point.one_shot_kl) == ("160-8x20-288", 0.4, 0.45)


def test_advice_holds_what_is_kept_on_tasks(write, tmp_path):
    for one in (graded(record("homodistil", 0.5), 0.6), graded(record("one_shot", 0.6), 0.5), teacher(0.8)):
        add_record(tmp_path / "results" / "methods_quarter", one)
    write()
    _, (point,) = read_advice(tmp_path / "advice.json")
    assert (point.glue_kept, point.one_shot_glue_kept) == (0.75, 0.625)


def test_the_readme_gets_its_table(write, tmp_path):
    absent = record_head(Cell("distilbert", {"seed": 0}, "distilbert", {})) | {"status": "impossible", "reason": "no"}
    for one in (*METHODS[1:], graded(METHODS[0], 0.6), teacher(0.8), absent):
        for name in ("methods_quarter", "computation"):
            add_record(tmp_path / "results" / name, one)
    add_record(tmp_path / "results" / "methods_half", record("distilbert", 0.3, macs=500, accuracy=0.45))
    floor = dict.fromkeys(("cola", "sst2", "mrpc", "rte", "stsb"), 0.4)
    (tmp_path / "results" / "constant_predictions.json").write_text(json.dumps(floor))
    write()
    lines = (tmp_path / "README.md").read_text(encoding="utf-8").splitlines()
    words = " ".join(lines)
    assert "the most frequent label keeps 50% of the teacher's mean" in words
    assert "DistilBERT's recipe is missing at a quarter" in words
    assert "were 0.0006 and 0.999 instead of the defaults (0.0006, 0.999)" in words  # these runs have the defaults
    assert (lines[0], lines[-1], "old" in lines) == ("# Ours", "The rest.", False)
    assert lines[lines.index("| --- | --- | --- | --- | --- | --- |") + 1 :][:5] == [
        "| 1/2 | DistilBERT's recipe | 4.0 M | 0.300 | 90.0% | – |",
        "| 1/4 | **HomoDistil** | 4.0 M | 0.520 ± 0.020 (3) | 60.0% ± 0.0% (3) | 75.0% |",
        "| 1/4 | pruned by magnitude first, then distilled | 4.0 M | 0.530 ± 0.026 (3) | 60.0% ± 0.0% (3) | – |",
        "| 1/4 | pruned at once, then distilled | 4.0 M | 0.620 ± 0.035 (3) | 60.0% ± 0.0% (3) | – |",
        "| 1/4 | trained from scratch | 4.0 M | 3.000 ± 1.000 (3) | 60.0% ± 0.0% (3) | – |",
    ]
    beside = "KL at a quarter less that of HomoDistil with the same seed, in nats: pruned at once +0.100 ± 0.020 (3)."
    assert beside in lines
