"""Images that were generated from the training images of the other sources."""

from __future__ import annotations

from collections.abc import Iterator

from rapipe.corpus.sources.base import Item, Source, SourceRequest, Split
from rapipe.errors import ArgumentError
from rapipe.records import Images

FILE = "images.arrow"


def generated(request: SourceRequest) -> Source:
    """The generated images, each labelled with the class that it was made for; all of train.

    Raises:
        ArgumentError: a path or a label is requested; this source takes none.
        UserError: nothing has been generated.
    """
    request.choose_label("generated")
    if request.path:
        raise ArgumentError(f"`path`: the kind 'generated' takes no path, but has {request.path!r}")
    file = request.folder("generated") / FILE
    images = Images.read(file)

    def items() -> Iterator[Item]:
        for row, label in enumerate(images.labels.tolist()):
            yield Item(images.pixels[row], label, f"generated {row}")

    return Source(images.classes, {"train": Split(len(images), items)}, (file,))
