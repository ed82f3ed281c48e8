"""Runs of configs one behind the other on the ranks of one launch: `python task_ranks.py CONFIG.json …`."""

import sys

from homodistil_hf.runs.config import parse_run
from homodistil_hf.runs.distill import run
from homodistil_hf.training.ranks import leave_process_group

if __name__ == "__main__":
    for config in sys.argv[1:]:
        run(parse_run([config]), print)
    leave_process_group()
