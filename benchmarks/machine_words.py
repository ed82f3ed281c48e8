"""The machine behind a page's figures, in words."""

from collections.abc import Mapping
from typing import Any


def machine_words(machine: Mapping[str, Any]) -> str:
    """Processor, threads and versions.

    Args:
        machine: of [`homodistil_hf.files.provenance.machine_facts`].

    Returns:
        `str`: without a full stop.
    """
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    return f"{machine['processor']}, {machine['num_threads']} thread(s) of {machine['num_cores']} cores; {versions}"
