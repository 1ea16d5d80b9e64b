"""Any folder of images: `split/class/...`, or `class/...` to be divided by the corpus.

Files in deeper folders of a class belong to the class. The images of a folder without
class folders are unlabelled. A zip or tar file is read as the folder that it holds, and a prefix
s3://BUCKET/PREFIX as a folder.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rapipe.corpus.formats import HEAD, image_error
from rapipe.corpus.sources.base import (
    UNDIVIDED,
    Item,
    Source,
    SourceRequest,
    Split,
    listed,
    split_called,
    split_in,
)
from rapipe.corpus.sources.trees import FileTree, file_tree, s3_tree
from rapipe.errors import ArgumentError, UserError, unreadable
from rapipe.io.storage import S3Path, is_remote
from rapipe.records import SPLITS, UNLABELLED

EXAMPLES = 4
"""Folders that a message names."""


def folder(request: SourceRequest) -> Source:
    """Images by split and class; a class is the name of its folder.

    Litter, hidden files, and files that are no images are passed over, and counted.
    Classes and files are sorted by name.

    Raises:
        ArgumentError: the folder is missing, or holds no images in this layout.
        UserError: the name of a class or a folder cannot be read, or an archive is damaged.
    """
    request.choose_label("folder")
    if is_remote(request.path):
        return _source(s3_tree(S3Path(request.path)), request)
    root = request.location
    if not request.path or not root.exists():
        link = f", since {root} is a link to nothing" if root.is_symlink() else ""
        raise ArgumentError(f"`path`: the folder {request.path!r} does not exist{link}")
    if root.is_file() and (error := _error_of_file(request)) is not None:
        return _one_image(request, error)
    return _source(file_tree(root), request)


def _source(tree: FileTree, request: SourceRequest) -> Source:
    """The images of a tree by split and class."""
    root = tree.root
    if not tree.images:
        raise ArgumentError(f"`path`: {_no_images(tree)}")
    folders = _Folders.of(tree)
    top = folders.descend("", "", tree.packed)
    hints: list[str] = []
    bases = {
        split: folders.descend(base, split) for split, base in _splits(folders, top, hints).items()
    }
    classes = tuple(sorted({name for base in bases.values() for name in folders.children[base]}))
    if request.labelled:
        for name in classes:
            if why := unreadable(name):
                raise UserError(
                    f"{root}: the class folder {name!r} has no readable name: rename it (it {why})"
                )
        hints += _check_depth(folders, bases)
    labels, errors = _label(tree, bases, classes, request.labelled)
    return Source(
        classes,
        {split: tree.split(pairs, errors) for split, pairs in labels.items()},
        tree.files(tree.images),
        tree.passed_over,
        tuple(hints),
        tree.revision,
    )


def _error_of_file(request: SourceRequest) -> str | None:
    def head() -> bytes:
        with request.location.open("rb") as file:
            return file.read(HEAD)

    return image_error(request.location.name, head)


def _one_image(request: SourceRequest, error: str) -> Source:
    """A source of one image, without a label."""
    path = request.location

    def items() -> Iterator[Item]:
        yield Item(path, UNLABELLED, str(path), error)

    return Source((), {UNDIVIDED: Split(1, items)}, (path,))


def _no_images(tree: FileTree) -> str:
    text = f"{tree.root} holds no images as split/class/file or class/file"
    if tree.passed_over:
        text += f", but {listed(tree.passed_over)}"
    if ".parquet" in tree.passed_over:
        text += "; for Parquet write `kind`: parquet"
    if any("-ubyte" in name for name in tree.names):
        text += "; for IDX files write `kind`: idx"
    return text


@dataclass(frozen=True)
class _Folders:
    """The folders of a tree by path; that of the tree itself is ""."""

    root: Path | S3Path
    """Of the tree."""
    name: str
    """Of the tree, without what says how it is packed."""
    children: dict[str, list[str]]
    """Names of the folders in each folder."""
    filled: frozenset[str]
    """Folders that hold images themselves."""

    @classmethod
    def of(cls, tree: FileTree) -> _Folders:
        children: dict[str, list[str]] = defaultdict(list)
        for path in tree.folders:
            parent, _, name = path.rpartition("/")
            children[parent].append(name)
        filled = frozenset(name.rpartition("/")[0] for name in tree.images)
        name = tree.root.resolve().name
        name = name.split(".")[0] if tree.packed else name
        return cls(tree.root, name, children, filled)

    def is_deep(self, path: str) -> bool:
        """Whether a folder holds folders and no images beside them."""
        return path not in self.filled and bool(self.children[path])

    def descend(self, path: str, split: str, packed: bool = False) -> str:
        """The folder that holds the classes or splits: `path`, or one that lies in it alone.

        That is a folder that repeats the name of the one around it, or the split's, as in
        `seg_train/seg_train`; one that holds splits; and the only one of an archive.
        """
        while self.is_deep(path) and len(self.children[path]) == 1:
            (child,) = self.children[path]
            inner = join(path, child)
            name = (path or self.name).rpartition("/")[2]
            repeats = child == name or bool(split and split_in(child) == split)
            deep = [name for name in self.children[inner] if self.is_deep(join(inner, name))]
            divided = "train" in map(split_called, deep)
            if not self.is_deep(inner) or not (repeats or divided or packed):
                break
            path, packed = inner, False
        return path


def join(path: str, name: str) -> str:
    """The path of a folder in another."""
    return f"{path}/{name}" if path else name


def _splits(folders: _Folders, top: str, hints: list[str]) -> dict[str, str]:
    """The folder of each split, or the one of an undivided source; says how names are read."""
    where, names = folders.root / top, folders.children[top]
    splits = {name: split for name in names if (split := split_called(name))}
    worded = {name: split for name in names if (split := split_in(name))}
    by_words = "train" in worded.values() and len(set(worded.values())) > 1
    if len(worded) == len(names) and (splits or by_words):
        if len(set(worded.values())) < len(names):
            raise ArgumentError(
                f"`path`: {where} has two folders for one split ({_examples(worded)})"
            )
        if set(worded) - set(splits):
            read = ", ".join(f"{name} as {split}" for name, split in worded.items())
            hints.append(f"reads the folders {read}")
    elif splits:
        stray = min(set(names) - set(splits))
        raise ArgumentError(
            f"`path`: {where} has the folder {stray!r} beside its splits; "
            f"splits are {', '.join(SPLITS)}"
        )
    elif by_words and all(folders.is_deep(join(top, name)) for name in worded):
        stray = min(set(names) - set(worded))
        raise ArgumentError(
            f"`path`: {where} has the folder {stray!r} beside {_examples(worded)}, which look like "
            f"splits: call those {', '.join(SPLITS)}, and move others away"
        )
    else:
        return {UNDIVIDED: top}
    folder_of = {split: join(top, name) for name, split in worded.items()}
    return {split: folder_of[split] for split in SPLITS if split in folder_of}


def _check_depth(folders: _Folders, bases: dict[str, str]) -> Iterator[str]:
    """Say so if all class folders hold folders only, which may be the classes.

    Raises:
        ArgumentError: each holds splits.
    """
    paths = [join(base, name) for base in bases.values() for name in folders.children[base]]
    if not paths or not all(folders.is_deep(path) for path in paths):
        return
    inside = [set(folders.children[path]) for path in paths]
    names, base = _examples(path.rpartition("/")[2] for path in paths), next(iter(bases.values()))
    if all("train" in set(map(split_called, children)) for children in inside):
        raise ArgumentError(
            f"`path`: the folders {names} of {folders.root / base} hold splits "
            f"({_examples(inside[0])}): let splits lie above classes, as in train/cat and test/cat"
        )
    if all(children == inside[0] for children in inside[1:]):
        yield (
            f"the classes {names} hold folders only ({_examples(inside[0])}), the same in each: if "
            f"those are the classes, let `path` name the folder that holds them, or call {names} "
            f"by splits ({', '.join(SPLITS)})"
        )


def _examples(names: Iterator[str] | set[str] | dict[str, str]) -> str:
    ordered = sorted(set(names))
    more = [f"{len(ordered) - EXAMPLES} more"] if len(ordered) > EXAMPLES else []
    return ", ".join([*map(repr, ordered[:EXAMPLES]), *more])


def _label(
    tree: FileTree, bases: dict[str, str], classes: tuple[str, ...], labelled: bool
) -> tuple[dict[str, list[tuple[str, int]]], dict[str, str]]:
    """Images with labels by split, and why images cannot be used; strays come last."""
    label_of = {name: label for label, name in enumerate(classes)}
    labels: dict[str, list[tuple[str, int]]] = {split: [] for split in bases}
    errors = dict(tree.images)
    strays: list[tuple[str, int]] = []
    prefixes = {split: f"{base}/" if base else "" for split, base in bases.items()}
    for name in tree.images:
        split = next((split for split, prefix in prefixes.items() if name.startswith(prefix)), "")
        if not split:
            errors[name] = f"lies beside the splits of {tree.root}: move it into one of them"
            strays.append((name, UNLABELLED))
            continue
        inside, _, rest = name[len(prefixes[split]) :].partition("/")
        if labelled and classes and not rest and not errors[name]:
            base = tree.location(bases[split]).removesuffix(": ")
            errors[name] = f"lies beside the class folders of {base}: move it into one of them"
        labels[split].append((name, label_of[inside] if rest else UNLABELLED))
    next(iter(labels.values())).extend(strays)
    return labels, errors
