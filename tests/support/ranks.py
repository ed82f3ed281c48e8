"""Several processes of one program on this machine, under torchrun."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_PORT_TAKEN = ("EADDRINUSE", "address already in use", "Address already in use", "Connection reset by peer")
"""A port that was free when torchrun looked may be taken when it is bound, as other tests run beside this one."""


def torchrun(
    *words: object, num_ranks: int = 2, env: Mapping[str, str] = {}, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run to the end; once more where the port was taken. The exit status is the caller's to look at."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_ranks}"]
    command, environment = [*launcher, *map(str, words)], {**os.environ, **env}
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout, check=False)
        if done.returncode == 0 or not any(sign in done.stderr for sign in _PORT_TAKEN):
            break
    return done


def children(process: int) -> list[int]:
    """Ids of the processes that a process has started; torchrun's are its ranks, in sessions of their own."""
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
