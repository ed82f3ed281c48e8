"""Facts that a measured time or an export depends on besides the model: processor, threads, versions, names."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch
import transformers

from ..version import __version__
from .run_names import run_of_model


def version_facts() -> dict[str, str]:
    """Return the software that writes an export: name → version."""
    return {
        "homodistil_hf": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def public_name(source: str) -> str:
    """Return the name of a model, file or glob for other readers: without its path on this machine.

    Of a model that a run has written into its folder, it is the run's.

    Example:
    ```python
    >>> public_name("/home/me/models/my-bert"), public_name("google-bert/bert-base-uncased")
    ('my-bert', 'google-bert/bert-base-uncased')

    ```
    """
    whole = os.path.expanduser(source)
    is_local = os.path.isabs(whole) or "*" in source or source.startswith((".", "~")) or os.path.exists(source)
    if not is_local or "\0" in source:
        return source
    path = Path(whole).resolve()
    return (run_of_model(path) or path).name


def machine_facts() -> dict[str, Any]:
    """Describe this machine in JSON values: processor, cores, torch's threads, system, the GPU in use, versions."""
    versions = {name: version_of(name) for name in ("torch", "transformers", "onnx", "onnxruntime")}
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    processors = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": processors[0] if processors else platform.processor(),
        "num_cores": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_initialized() else {}),
        "versions": {"homodistil_hf": __version__, "python": platform.python_version(), **versions},
    }


def version_of(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
