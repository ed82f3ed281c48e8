"""`python -c` without the seconds that torch and transformers take to be imported.

A process that has them, and neither this package nor anything of the tests, makes a copy of itself for every call. One
that has this package too is made by `WITH_THIS_PACKAGE`. Both import sentence-transformers before the first call that
does, which takes three more seconds. `tests/export/test_verify.py` does without it, so that the real thing is tested
too.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGES = """
import torch, transformers, safetensors.torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, dynamic_module_utils
from transformers.models.bert import modeling_bert
"""
WITH_THIS_PACKAGE = f"{PACKAGES}\nimport homodistil_hf.cli, homodistil_hf.trainer"

# Each line of its input is a call, each line of its output how that ended.
_SERVER = """
import contextlib, gc, json, os, sys, traceback

def run(call):
    os.chdir(call["cwd"])
    os.environ.clear()
    os.environ.update(call["env"])
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))  # behind "", as a start has it
    if "HF_MODULES_CACHE" in os.environ:
        for module in list(sys.modules.values()):  # they have read it by now
            if "HF_MODULES_CACHE" in getattr(module, "__dict__", {}):
                module.HF_MODULES_CACHE = os.environ["HF_MODULES_CACHE"]
    for number, name in enumerate(("out", "err"), 1):
        os.dup2(os.open(call[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["-c", *call["arguments"]]
    try:
        exec(compile(call["code"], "<string>", "exec"), {"__name__": "__main__"})
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

for line in sys.stdin:
    call = json.loads(line)
    if "sentence_transformers" in call["code"]:
        with contextlib.suppress(ImportError):
            import sentence_transformers
    gc.collect()
    gc.freeze()  # a training collects garbage: a copy of this process would look through all of it, and so copy it
    child = os.fork()
    if child == 0:
        run(call)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class ForkedPython:
    """Stands for the module `subprocess` where all that it runs is `python -c`.

    Args:
        scratch: folder for what the calls print.
        imports: what the process that is copied has imported.
    """

    TimeoutExpired = subprocess.TimeoutExpired
    CalledProcessError = subprocess.CalledProcessError

    def __init__(self, scratch: Path, *, imports: str = PACKAGES):
        self.scratch, self.imports = scratch, imports
        self._server: subprocess.Popen[str] | None = None

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: str | Path,
        env: Mapping[str, str] = os.environ,
        check: bool,
        timeout: float | None = None,
        **others: Any,
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run`; the time that the first call's imports take counts too."""
        python, option, code, *arguments = command
        assert (python, option) == (sys.executable, "-c")
        out, err = self.scratch / "out", self.scratch / "err"
        call = {"code": code, "arguments": arguments, "cwd": str(cwd), "env": dict(env)}
        server = self._started(env)
        server.stdin.write(json.dumps(call | {"out": str(out), "err": str(err)}) + "\n")
        server.stdin.flush()
        if not select.select([server.stdout], [], [], timeout)[0]:
            os.killpg(server.pid, signal.SIGKILL)  # with the copy and what that has started
            self.close()
            raise self.TimeoutExpired(command, float(timeout or 0))
        status = int(server.stdout.readline())
        done = subprocess.CompletedProcess(command, status, out.read_text("utf-8"), err.read_text("utf-8"))
        if check:
            done.check_returncode()
        return done

    def close(self) -> None:
        if self._server is not None:
            self._server.communicate()
            self._server = None

    def _started(self, env: Mapping[str, str]) -> "subprocess.Popen[str]":
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, "-c", f"import gc\ngc.disable()\n{self.imports}\ngc.enable()\n{_SERVER}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=self.scratch,
                env=os.environ | dict(env),
                start_new_session=True,
            )
        return self._server
