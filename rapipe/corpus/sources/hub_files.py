"""Files of a data set on the Hugging Face hub, all of one commit, in the hub's cache.

    hf://datasets/OWNER/NAME/data/train-*.parquet
    hf://datasets/OWNER/NAME@refs/convert/parquet/default

Only such a path asks the network, and no path whose revision is a commit that is in the cache.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rapipe.errors import ArgumentError
from rapipe.io.hub import REPOSITORY, library, page_of, problem

PREFIX = "hf://"
ADDRESS = re.compile(
    rf"hf://datasets/(?P<repository>{REPOSITORY})"
    r"(@(?P<revision>refs/(convert|pr)/\w+|[^/@]+))?(/(?P<path>.*))?"
)
COMMIT = re.compile("[0-9a-f]{40}")
DATASET = "dataset"
LISTED = 5
"""Names in a message."""


@dataclass(frozen=True)
class HubFiles:
    """Files in the hub's cache."""

    names: dict[Path, str]
    """Of each its name in the data set, by which they are sorted."""
    single: bool
    """Whether the path names one of them."""
    address: str
    """Of the commit: `hf://datasets/OWNER/NAME@COMMIT`."""
    hints: tuple[str, ...]

    @property
    def commit(self) -> str:
        """The commit that all are of."""
        return self.address.rpartition("@")[2]

    @property
    def locations(self) -> dict[Path, str]:
        """The address of each."""
        return {file: f"{self.address}/{name}" for file, name in self.names.items()}


def is_on_hub(path: str) -> bool:
    """Whether a path is an address on the hub."""
    return path.startswith(PREFIX)


def hub_files(path: str, suffix: str) -> HubFiles:
    """Fetch the files that a path names, as far as they are not in the cache.

    Args:
        path: a file; a folder, with all below it that end in `suffix`; or a pattern, in which `*`
            stands for any letters of a name.

    Raises:
        ArgumentError: it is no such address, names no file, or the hub does not give them.
    """
    address = ADDRESS.fullmatch(path)
    if not address:
        raise ArgumentError(
            f"`path`: {path!r} is no data set on the hub: write "
            "hf://datasets/OWNER/NAME/FILE.parquet, a folder or a pattern such as *.parquet in "
            "place of the file, and @REVISION behind NAME for another than main"
        )
    repository, wanted = address["repository"], (address["path"] or "").strip("/")
    revision = (address["revision"] or "main").replace("%2F", "/")
    hub = library()
    try:
        commit = revision
        if not COMMIT.fullmatch(revision):
            commit = hub.HfApi().repo_info(repository, repo_type=DATASET, revision=revision).sha
        below = f"{wanted}/*{suffix}" if wanted else f"*{suffix}"
        folder = Path(
            hub.snapshot_download(
                repository,
                repo_type=DATASET,
                revision=commit,
                allow_patterns=[below, *([wanted] if wanted else ())],
            )
        )
        present = sorted(file for file in folder.rglob("*") if file.is_file())
        names = {file: file.relative_to(folder).as_posix() for file in present}
        names = {file: name for file, name in names.items() if _fits(name, wanted, suffix)}
        if not names:
            others = hub.HfApi().list_repo_files(repository, repo_type=DATASET, revision=commit)
    except Exception as error:  # of any kind: the name's, the hub's, the network's, the disk's
        why = problem(error, page_of(repository, DATASET))
        raise ArgumentError(f"`path`: {path!r} cannot be read: {why}") from None
    if not names:
        raise ArgumentError(
            f"`path`: {path!r} names no file that ends in {suffix}; the data set has "
            f"{_shorten([name for name in others if name.endswith(suffix)] or others)}"
        )
    pinned = f"hf://datasets/{repository}@{commit}"
    hints = () if commit == revision else (f"read at {pinned}: write that to read it again",)
    return HubFiles(names, wanted in names.values(), pinned, hints)


def _fits(name: str, wanted: str, suffix: str) -> bool:
    """Whether a file is the wanted one, lies below it, or fits it as a pattern."""
    if name == wanted:
        return True
    below = not wanted or name.startswith(f"{wanted}/")
    fits = bool(wanted) and PurePosixPath(f"/{name}").match(f"/{wanted}")
    return name.endswith(suffix) and (below or fits)


def _shorten(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return (", ".join(names[:LISTED]) + more) or "none"
