"""What a measured time or an export depends on besides the model: processor, threads, versions."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch
import transformers

from ..version import __version__


def version_facts() -> dict[str, str]:
    """Which software wrote an export.

    Returns:
        `dict[str, str]`: name → version.
    """
    return {
        "homodistil_hf": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def machine_facts() -> dict[str, Any]:
    """Describe this machine.

    Returns:
        `dict` of JSON values: `processor`, `num_cores`, `num_threads` (torch's, and those of ONNX Runtime here),
        `system`, and `versions` of what is installed.
    """
    versions = {name: _version(name) for name in ("torch", "transformers", "onnx", "onnxruntime")}
    return {
        "processor": _processor(),
        "num_cores": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"homodistil_hf": __version__, "python": platform.python_version(), **versions},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
