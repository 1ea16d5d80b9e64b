"""A folder to a repository of the hub, and back: all files in one commit, or none."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rapipe import __version__
from rapipe.errors import ArgumentError, UserError
from rapipe.hub.kinds import COMMON, GIT, KINDS, MARKER, Kind, names_in, verify
from rapipe.io.checksums import is_intact
from rapipe.io.folders import atomic_folder
from rapipe.io.hub import REPOSITORY, library, page_of, problem
from rapipe.io.text import expand_home
from rapipe.progress import say

CACHE = ".cache"
"""What huggingface_hub leaves in a folder that it downloads into."""


def check_repository(repository: str) -> None:
    """Raise `ArgumentError` unless it is a name on the hub."""
    if not re.fullmatch(REPOSITORY, repository):
        raise ArgumentError(f"`repository` is {repository!r}; write OWNER/NAME")


def files_of(folder: Path) -> list[dict[str, Any]]:
    """A row for each file that would be uploaded, with its size in bytes."""
    return [{"file": n, "bytes": (folder / n).stat().st_size} for n in sorted(names_in(folder))]


def upload(folder: Path, repository: str, kind: Kind, private: bool, revision: str) -> str:
    """Commit a folder to a repository, which is made if there is none; returns the address.

    What an earlier push left there and this one lacks is removed; older commits keep it.

    Args:
        folder: what `kinds.complete` completed.
        private: whether a new repository is to be private.
        revision: a branch, made from main if there is none; empty for main.

    Raises:
        ArgumentError: the repository holds something else, or is public and `private` is set.
        UserError: the hub refuses, or is out of reach.
    """
    hub, page = library(), page_of(repository, kind.repo_type)
    with _translate_errors(page):
        api = _api()
        info = _info(api, repository, kind)
        if info and private and not info.private:
            raise ArgumentError(
                f"`private`: {page} is there already, and public: make it private in its settings, "
                "or name another"
            )
        if not info:
            api.create_repo(repository, repo_type=kind.repo_type, private=private or None)
            info = _info(api, repository, kind)
        if revision:
            branch = _branch(api, repository, kind, revision)
            if not branch:
                api.create_branch(repository, repo_type=kind.repo_type, branch=revision)
            info = branch or info
        present = {file.rfilename for file in info.siblings} - {GIT}
        if present:
            kind.check_names(present, page)
        names = sorted(names_in(folder))
        with warnings.catch_warnings():
            # that a classifier has a memory of its own beside it is as it should be
            warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")
            commit = api.create_commit(
                repository,
                [
                    *(hub.CommitOperationAdd(name, folder / name) for name in names),
                    *(hub.CommitOperationDelete(name) for name in sorted(present - set(names))),
                ],
                repo_type=kind.repo_type,
                revision=revision or None,
                parent_commit=info.sha,
                commit_message=f"{kind.name} by rapipe {__version__}",
            )
    return str(commit.commit_url)


def download(repository: str, kind: Kind, folder: Path, revision: str) -> str:
    """Write what a repository holds into a folder, once it is checked; says what it is.

    Args:
        folder: a new or an empty one, or one that was pulled before and not changed.
        revision: a branch, a tag or a commit; empty for main.

    Raises:
        ArgumentError: the repository or the folder holds something else.
        UserError: the hub refuses or is out of reach, or what came is damaged or does not load.
    """
    check_repository(repository)
    target = expand_home(folder).absolute()
    _check_replaceable(target)
    page = page_of(repository, kind.repo_type)
    with _translate_errors(page):
        info = _api().repo_info(
            repository, repo_type=kind.repo_type, revision=revision or None, files_metadata=True
        )
    sizes = {file.rfilename: file.size or 0 for file in info.siblings}
    sizes.pop(GIT, None)
    kind.check_names(set(sizes), page)
    say(f"{page} at {info.sha}: {len(sizes)} files, {megabytes(sum(sizes.values()))}")
    with atomic_folder(target) as part:
        with _translate_errors(page):
            library().snapshot_download(
                repository,
                repo_type=kind.repo_type,
                revision=info.sha,
                local_dir=part,
                allow_patterns=sorted(sizes),
            )
        shutil.rmtree(part / CACHE, ignore_errors=True)
        try:
            text = verify(part, kind)
        except UserError as error:
            what = str(error).partition(": run rapipe")[0].replace(str(part), repository)
            raise UserError(
                f"{what}; nothing was written: pull it again, or ask its owner"
            ) from None
    return text.replace(str(part), str(folder))


def megabytes(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 1e6:,.1f} MB"


def _check_replaceable(folder: Path) -> None:
    """Raise `ArgumentError` if there is something that a pull must not replace."""
    if folder.exists() and not folder.is_dir():
        raise ArgumentError(f"`folder` is {str(folder)!r}, which is a file: name another")
    names = names_in(folder) if folder.exists() else set()
    ours = COMMON.union(*(kind.files for kind in KINDS.values()))
    if names and (MARKER not in names or names - ours or not is_intact(folder)):
        raise ArgumentError(
            f"`folder` is {str(folder)!r}, which holds other files than a pull, or changed ones: "
            "name another"
        )


def _api() -> Any:
    return library().HfApi(library_name="rapipe", library_version=__version__)


def _info(api: Any, repository: str, kind: Kind) -> Any:
    """What the hub says of a repository; None if there is none that may be seen."""
    try:
        return api.repo_info(repository, repo_type=kind.repo_type)
    except library().errors.GatedRepoError:
        raise
    except library().errors.RepositoryNotFoundError:
        return None


def _branch(api: Any, repository: str, kind: Kind, revision: str) -> Any:
    """The same of a branch; None if there is none."""
    try:
        return api.repo_info(repository, repo_type=kind.repo_type, revision=revision)
    except library().errors.RevisionNotFoundError:
        return None


@contextmanager
def _translate_errors(page: str) -> Iterator[None]:
    """Whatever huggingface_hub raises becomes a `UserError` that names the repository."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of any kind: the name's, the hub's, the network's
        raise UserError(f"{page}: {problem(error, page)}") from None
