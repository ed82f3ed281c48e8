"""Settings of runs that are measured: nothing is evaluated, saved, reported or drawn while they train."""

QUIET = {"eval_strategy": "no", "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
