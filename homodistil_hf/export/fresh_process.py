"""Code in a process of its own, in which this package can't be imported and nothing is fetched."""

import os
import subprocess
import sys
from collections.abc import Sequence

TIMEOUT_S = 600


def run_fresh(code: str, arguments: Sequence[object], scratch: str) -> str:
    """Run code, and give what it printed.

    Args:
        code: what is run, behind a line that hides this package.
        arguments: `sys.argv[1:]`.
        scratch: its working folder, and where copies of remote code go.

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
