"""The Hugging Face hub: its package without telemetry, and why it did not do what it should.

Nothing here asks the network by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from rapipe.errors import first_line, sentence
from rapipe.progress import is_interactive

PAGE = "https://huggingface.co/"
DATASETS = "datasets/"
"""In an address, before the name of a data set."""
REPOSITORY = r"[\w.-]+/[\w.-]+"
"""OWNER/NAME, as a regular expression."""
REFUSED = (401, 403)
"""Status codes of a server that wants to know who asks."""
LOG_IN = "log in by hf auth login (or HF_TOKEN)"
NOT_REACHED = ("ConnectError", "ConnectTimeout", "ReadTimeout", "ProxyError")
"""Exceptions of whatever huggingface_hub asks the network by."""


def library() -> Any:
    """huggingface_hub, which tells nobody what it is used for; bars only on a terminal."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import huggingface_hub
    import huggingface_hub.constants
    import huggingface_hub.errors
    import huggingface_hub.utils

    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True  # if it was imported before
    if not is_interactive():
        huggingface_hub.utils.disable_progress_bars()
    return huggingface_hub


def page_of(repository: str, repo_type: str) -> str:
    """The address of a repository: a `model` or a `dataset`."""
    return f"{PAGE}{DATASETS if repo_type == 'dataset' else ''}{repository}"


def problem(error: BaseException, page: str) -> str:
    """Why a call of huggingface_hub failed, as a clause with a remedy.

    Args:
        page: the address of the repository.
    """
    errors = library().errors
    for cause in causes(error):
        status = getattr(getattr(cause, "response", None), "status_code", 0)
        if isinstance(cause, errors.GatedRepoError):
            return f"the hub does not give it: ask for access on {page}, and {LOG_IN}"
        if isinstance(cause, errors.RepositoryNotFoundError):
            return (
                f"the hub has no {page}, or hides it: mend the name, or {LOG_IN} if it is private"
            )
        if isinstance(cause, errors.RevisionNotFoundError):
            return f"{page} has no such revision: name a branch, a tag or a commit"
        if isinstance(cause, errors.RemoteEntryNotFoundError):
            return f"{page} has no such file"
        if status in REFUSED or isinstance(cause, errors.LocalTokenNotFoundError):
            return f"the hub refuses it for {page}: {LOG_IN}, with a token that has the right"
        if status:
            return f"the hub answers {status} for {page}: {sentence(error)}"
    unreached = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    for cause in causes(error):
        if isinstance(cause, unreached) or type(cause).__name__ in NOT_REACHED:
            return "the hub is out of reach: mend the network"
    return f"the hub did not do it ({first_line(error)}): run the same again"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
