"""Uploads an export to the Hub in one commit, and reads a teacher's licence there.

`training/publishing.py` uploads checkpoints.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, repocard
from huggingface_hub.utils import validate_repo_id

from ..files.hub_errors import HTTP_ERROR, hub_errors, persistently
from ..files.inside import is_inside
from ..files.messages import join_some, short_repr
from ..files.provenance import public_name
from ..files.strict_json import read_json, read_json_object
from .facts import (
    CARD_FILE,
    FACTS_FILE,
    THIS_FOLDER,
    TRIMMING_FILE,
    UNKNOWN_LICENCE,
    is_hub_id,
    read_facts,
    section_of,
)

logger = logging.getLogger(__name__)
_HUB_TIMEOUT_S = 5.0


def teacher_card(name_or_path: str) -> dict[str, Any]:
    """Name and rights of a teacher, and what its model card states, of a Hub name or folder.

    Returns:
        `name` (of a folder its last part); `hub_id`, `None` where it is no name on the Hub; `licence`, `"unknown"`
        where none is stated; `language`, a list of codes, where any is.
    """
    is_folder = bool(name_or_path) and Path(name_or_path).is_dir()
    try:
        if is_folder:
            file = Path(name_or_path) / CARD_FILE
            header = repocard.metadata_load(file) if file.is_file() else None
        else:
            header = HfApi().model_info(name_or_path, timeout=_HUB_TIMEOUT_S).card_data
    except (OSError, ValueError, HTTP_ERROR, repocard.yaml.YAMLError) as error:
        logger.info("The licence of teacher %s is unknown: %s", name_or_path, type(error).__name__)
        header = None
    name, hub_id = public_name(name_or_path), name_or_path if not is_folder and is_hub_id(name_or_path) else None
    if is_folder and (trimming := Path(name_or_path, TRIMMING_FILE)).is_file():  # its folder's name says nothing
        made_from = section_of(read_json_object(trimming, TRIMMING_FILE), "source").get("model")
        name = f"{made_from}, of a smaller vocabulary" if made_from else name
    licences, languages = (_listed(header.get(name) if header else None) for name in ("license", "language"))
    return {
        "name": name or "an unnamed teacher",
        "hub_id": hub_id,
        "licence": ", ".join(licences) or UNKNOWN_LICENCE,
        **({"language": languages} if languages else {}),
    }


def _listed(stated: Any) -> list[str]:
    """What a card's header says once or several times; YAML reads Norwegian's code, no, as False."""
    values = stated if isinstance(stated, list) else [] if stated is None else [stated]
    return ["no" if value is False else str(value) for value in values]


def push_export(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload a HomoDistil student",
    tags: Sequence[str] = (),
) -> CommitInfo:
    """Upload an export to the Hub in one commit, so that the repository never holds a mix of two students.

    The same commit removes files of an earlier export that the new export lacks; files that no export wrote stay.

    Args:
        folder: an export. Its facts, its card and the files that its `facts.json` lists are uploaded.
        repo_id: `user/name` or `organisation/name`; created where it doesn't exist.
        private: visibility of a new repository; default: the organisation's.
        token: Hub token; default: the logged-in one.
        revision: branch to commit to, created where it doesn't exist; default: the main one.
        commit_message: first line of the commit.
        tags: further tags for the card's header.

    Raises:
        ValueError: the folder holds no export, or a listed file is missing.
        HubError: the Hub refused or can't be reached; the repository is as it was.
    """
    folder = Path(folder)
    names = _listed_files(folder)

    def commit(api: HfApi, name: str) -> CommitInfo:
        additions = [CommitOperationAdd(path, folder / path) for path in names]
        additions.append(CommitOperationAdd(CARD_FILE, card_for(folder, name, tags=tags, revision=revision).encode()))
        # what the repository's own facts.json lists is of an earlier export
        earlier = set(api.list_repo_files(name, revision=revision))
        file = api.hf_hub_download(name, FACTS_FILE, revision=revision) if FACTS_FILE in earlier else None
        try:
            earlier &= set(read_json(file, FACTS_FILE)["files"]) if file else set()
        except (ValueError, LookupError, TypeError):
            logger.warning("%s of %s tells nothing about an earlier export; no file is removed", FACTS_FILE, name)
            earlier = set()
        stale = earlier - {*names, CARD_FILE}
        deletions = [CommitOperationDelete(path) for path in sorted(stale)]
        return api.create_commit(name, [*additions, *deletions], commit_message=commit_message, revision=revision)

    remedy = f"{folder} is complete; push it again with `homodistil push {folder} {repo_id}`"
    with hub_errors(f"repo_id={repo_id!r} can't be pushed to", token=token, remedy=remedy):
        return commit_to(repo_id, commit, private=private, token=token, revision=revision)


def files_to_push(folder: str | Path) -> dict[str, int]:
    """The files that [`push_export`] uploads, without the card: path in the export → bytes; nothing is sent.

    Raises:
        ValueError: as [`push_export`].
    """
    return {name: (Path(folder) / name).stat().st_size for name in _listed_files(Path(folder))}


def card_for(folder: str | Path, repo_id: str, *, tags: Iterable[str] = (), revision: str | None = None) -> str:
    """The card of an export as it is pushed: the snippet loads from the repository, or its branch.

    Raises:
        ValueError: no name of a repository.
    """
    validate_repo_id(repo_id)
    text = (Path(folder) / CARD_FILE).read_text(encoding="utf-8")
    before, here, snippet = text.partition(f"\n{THIS_FOLDER}\n")
    if here:
        code, fence, rest = snippet.partition("```")
        if revision is not None:
            code = code.replace("(name", f'(name, revision="{revision}"')
        text = f'{before}\nname = "{repo_id}"\n{code}{fence}{rest}'
    if not tags:
        return text
    card = ModelCard(text)
    card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *tags]))
    return str(card)


def commit_to(
    repo_id: str,
    commit: Callable[[HfApi, str], CommitInfo],
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
) -> CommitInfo:
    """Create repository and branch where they don't exist, then commit; each step is repeated after a passing error.

    `commit` gets the client and the repository's full name, and is called anew at each attempt.
    """
    api = HfApi(token=token)
    name = persistently(lambda: api.create_repo(repo_id, private=private, exist_ok=True).repo_id)
    if revision is not None:
        persistently(lambda: api.create_branch(name, branch=revision, exist_ok=True))
    return persistently(lambda: commit(api, name))


def ensure_repo(repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
    """Create a repository where it doesn't exist; a run finds out at its beginning whether it can push.

    Returns:
        Its full name.
    """
    with hub_errors(f"hub_model_id={repo_id!r} can't be pushed to", token=token):
        return persistently(lambda: HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True).repo_id)


def tag_commit(repo_id: str, tag: str, *, revision: str) -> None:
    """Tag a commit, a digest or the last one of a branch, such as `v1.0`; the tag must be new."""
    with hub_errors(f"repo_id={repo_id!r} can't get the tag {tag!r}"):
        persistently(lambda: HfApi().create_tag(repo_id, tag=tag, revision=revision))


def _listed_files(folder: Path) -> list[str]:
    listed = read_facts(folder).get("files")
    if not isinstance(listed, dict):
        raise ValueError(f"{FACTS_FILE} in folder={str(folder)!r} has files={short_repr(listed)}; export again")
    names = [*listed, FACTS_FILE]
    if outside := [name for name in [*names, CARD_FILE] if not is_inside(folder, name)]:
        raise ValueError(
            f"folder={str(folder)!r} lists {short_repr(outside[0])}, which leads out of it, so nothing is sent; put "
            "the file itself there, or export again"
        )
    if missing := [name for name in [*names, CARD_FILE] if not (folder / name).is_file()]:
        raise ValueError(f"folder={str(folder)!r} lacks {join_some(missing)}; export again")
    return names
