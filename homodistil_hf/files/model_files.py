"""One small file of a model: in its folder, or on the Hub."""

from functools import cache
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError

from .folders import is_path


def model_file(
    source: str, name: str, *, token: str | None = None, is_cached: bool = False, revision: str | None = None
) -> Path | None:
    """Return a file of a folder, or of the Hub, where it is downloaded unless it was; None where there is none.

    Where `is_cached`, no Hub is asked.
    """
    if Path(source).exists() or is_path(source):
        return file if (file := Path(source, name)).is_file() else None
    return _file_on_hub(source, name, token, is_cached, revision)


@cache  # a Hub that can't be reached is waited for once
def _file_on_hub(source: str, name: str, token: str | None, is_cached: bool, revision: str | None) -> Path | None:
    try:
        file = try_to_load_from_cache(source, name, revision=revision)
        if file is None:
            file = hf_hub_download(source, name, token=token, local_files_only=is_cached, revision=revision)
    except (EntryNotFoundError, RepositoryNotFoundError, HFValidationError):
        return None
    return Path(file) if isinstance(file, str) else None  # the cache knows of files that aren't there, too
