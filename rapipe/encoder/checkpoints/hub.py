"""Files of the Hugging Face hub, and one sentence for each way in which they do not come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rapipe.encoder.backbones.extras import load_extra
from rapipe.errors import ArgumentError, first_line

PAGE = "https://huggingface.co/"
SNAPSHOTS = "snapshots"
"""Folder of the cache with a folder a commit."""
REFUSED = (401, 403)
"""Status codes of a server that wants to know who asks."""
OR_A_FILE = "or name a file with its weights on this machine"


def fetch(repository: str, file: str, revision: str | None = None) -> Path:
    """A file of a repository, from the cache if it has that version, else from the hub.

    Raises what huggingface_hub raises: `refusal` says it in a sentence.

    Args:
        revision: a commit; None for the newest.
    """
    hub = load_extra("huggingface_hub", repository)
    return Path(hub.hf_hub_download(repository, file, revision=revision))


def fetch_if_any(repository: str, file: str, revision: str | None = None) -> Path | None:
    """A file of a repository; None if it has none of this name, or cannot be reached."""
    errors = load_extra("huggingface_hub.errors", repository)
    try:
        return fetch(repository, file, revision)
    except (errors.EntryNotFoundError, errors.HfHubHTTPError, OSError):
        return None


def commit_of(path: Path) -> str:
    """The commit that a file of the cache is of; empty for other files."""
    return path.parent.name if path.parent.parent.name == SNAPSHOTS else ""


def licence_of(readme: Path | None) -> str:
    """The licence that the front matter of a model card states; empty if it states none."""
    if readme is None or not readme.is_file():
        return ""
    hub = load_extra("huggingface_hub", str(readme))
    try:
        facts = hub.metadata_load(readme) or {}
    except Exception:  # of any kind: it is a text that anybody wrote
        return ""
    return str(facts.get("license_name") or facts.get("license") or "")


def refusal(init: str, giver: str, error: BaseException, repository: str = "") -> ArgumentError:
    """Why a checkpoint does not come from a hub, in one sentence.

    Args:
        giver: who was asked for it.
        error: what was raised, maybe because of what the hub answered.
        repository: in which it should be, if that is known.
    """
    errors = load_extra("huggingface_hub.errors", init)
    for cause in _causes(error):
        status = getattr(getattr(cause, "response", None), "status_code", 0)
        page = PAGE + (getattr(cause, "repo_id", None) or repository)
        if isinstance(cause, errors.GatedRepoError) or (
            status in REFUSED and not isinstance(cause, errors.RepositoryNotFoundError)
        ):
            return ArgumentError(
                f"`init` is {init!r}, whose weights are gated: ask for access on {page}, log in by "
                f"hf auth login (or HF_TOKEN), {OR_A_FILE}"
            )
        if isinstance(cause, errors.RepositoryNotFoundError):
            return ArgumentError(
                f"`init` is {init!r}, but the hub has no {page}, or hides it: mend the name, log "
                f"in by hf auth login if it is private, {OR_A_FILE}"
            )
        if isinstance(cause, errors.RemoteEntryNotFoundError):
            return ArgumentError(
                f"`init` is {init!r}, but the files of such a model are not on {page}: choose "
                f"another model, {OR_A_FILE}"
            )
        if isinstance(cause, errors.LocalEntryNotFoundError):
            return ArgumentError(
                f"`init` is {init!r}, which is not in the cache of this machine, and the hub is "
                f"out of reach: mend the network, {OR_A_FILE}"
            )
    return ArgumentError(
        f"`init` is {init!r}, which {giver} does not give ({first_line(error)}): mend the name or "
        f"the network, {OR_A_FILE}"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
