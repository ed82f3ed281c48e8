"""Runs code in a process of its own, which can't import this package and fetches nothing."""

import os
import subprocess
import sys
from collections.abc import Sequence

TIMEOUT_S = 600


def run_fresh(code: str, arguments: Sequence[object], scratch: str) -> str:
    """Run code and return its output.

    Args:
        code: Python; a line that hides this package is put before it.
        arguments: `sys.argv[1:]`.
        scratch: its working folder, also for copies of remote code.

    Raises:
        ValueError: it failed, or took too long.
    """
    settings = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": scratch, "TRANSFORMERS_VERBOSITY": "error"}
    hidden = 'import sys; sys.modules["homodistil_hf"] = None\n'
    try:
        process = subprocess.run(
            [sys.executable, "-c", hidden + code, *map(str, arguments)],
            cwd=scratch,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"the fresh process took more than {TIMEOUT_S} s") from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(
            f"the process without homodistil_hf ended with status {error.returncode}: {reason}"
        ) from error
    return process.stdout
