"""Names in the folder of a run, and the run that a model's folder belongs to."""

import re
from pathlib import Path

RESULTS_FILE = "results.json"
TABLES = "tables"
"""Of results: further tables for the report, each with `title`, `headings` and `rows` of words."""
NESTED = "nested"
"""Of results: the sizes of a nested student, each with `name` and `plan`."""
SETTINGS_FILE = "settings.json"
REPORT_FILE = "report.html"
STATE_OF_TRAINER = "trainer_state.json"
"""Trainer's file of logs."""
LOG_FILES = (STATE_OF_TRAINER, REPORT_FILE)
"""What a run leaves in its folder even if it saves nothing."""
FAMILY_FILE = "family.json"
"""The state of a family in its `output_dir`: its members, and which are done."""
STUDENT_FOLDER = "student"
"""Of the export of a distillation."""
MODEL_FOLDER = "model"
"""Of the model of a fine-tuning, a binarization or a round."""
MODEL_FOLDERS = (STUDENT_FOLDER, MODEL_FOLDER)
FURTHER_FOLDER = "further_pretraining"
"""Of the run that trains a distillation's teacher on."""
TRIMMED_FOLDER = "trimmed_teacher"
"""Of the teacher with the words that a run keeps."""


PART = re.compile(r"(?:round|stage)-\d+|\d+-.+")
"""Names of folders of a run's parts: rounds, stages, and members of a family."""


def run_of_model(folder: Path) -> Path | None:
    """The folder of the run that wrote a model into its `student/` or `model/`, or None."""
    return folder.parent if folder.name in MODEL_FOLDERS and (folder.parent / RESULTS_FILE).is_file() else None
