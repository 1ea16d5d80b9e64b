"""Files of the Hugging Face hub, and one sentence for each way in which they do not come."""

from __future__ import annotations

from pathlib import Path

from rapipe.errors import ArgumentError, first_line
from rapipe.io.hub import PAGE, REFUSED, causes, library

SNAPSHOTS = "snapshots"
"""Folder of the cache with a folder a commit."""
OR_A_FILE = "or name a file with its weights on this machine"


def fetch(repository: str, file: str, revision: str | None = None) -> Path:
    """A file of a repository, from the cache if it has that version, else from the hub.

    Raises what huggingface_hub raises: `refusal` says it in a sentence.

    Args:
        revision: a commit; None for the newest.
    """
    return Path(library().hf_hub_download(repository, file, revision=revision))


def fetch_if_any(repository: str, file: str, revision: str | None = None) -> Path | None:
    """A file of a repository; None if it has none of this name, or cannot be reached."""
    errors = library().errors
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
    try:
        facts = library().metadata_load(readme) or {}
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
    errors = library().errors
    for cause in causes(error):
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
