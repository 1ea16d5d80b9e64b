"""What `rapipe neighbors` does: look one image up in the memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from rapipe import paths
from rapipe.decoding import Decoding, decode, pixel_hash
from rapipe.device import device
from rapipe.encoder import Encoder
from rapipe.errors import UserError
from rapipe.pipeline.inputs import bank_card, corpus_card, pictures
from rapipe.pipeline.memory import check_encoder
from rapipe.records import Embeddings, Images, Pixels
from rapipe.search import search


def run(image: str, k: int, picture: Path | None, as_json: bool) -> None:
    """Print the k nearest of the bank, with class, source, id and cosine similarity."""
    bank, train = Embeddings.read(paths.BANK), Images.read(paths.split("train"))
    check_encoder(bank_card()["encoder"], paths.BANK, "prefetch")
    encoder = Encoder.read(paths.ENCODER).to(device())
    pixels, label = _open(image)
    found = search(encoder.embed(pixels[None]), bank, k, np.array([pixel_hash(pixels)]))
    rows, similarities = found.indices[0], found.similarities[0].tolist()
    classes = bank_card()["classes"]
    names = [classes[i] if i >= 0 else "?" for i in bank.labels[rows]]
    listed = [
        {
            "similarity": round(s, 6),
            "class": name,
            "source": str(bank.sources[r]),
            "id": int(bank.ids[r]),
        }
        for s, name, r in zip(similarities, names, rows, strict=True)
    ]
    if as_json:
        print(json.dumps(listed, indent=2))
    else:
        for line in listed:
            print(f"{line['similarity']:.4f}  {line['class']:16} {line['source']:16} {line['id']}")
    if picture:
        from rapipe import report

        shown = pictures(train, bank.ids[rows])
        example = report.Neighbourhood(pixels, label, shown, tuple(names), tuple(similarities))
        report.save(report.gallery([example]), picture)


def _open(image: str) -> tuple[Pixels, str]:
    """Pixels of a test image by its row, or of a file; and its class if that is known."""
    if image.isdecimal():
        test = Images.read(paths.split("test"))
        if int(image) >= len(test):
            raise UserError(f"there is no test image {image}; choose from 0 to {len(test) - 1}")
        label = int(test.labels[int(image)])
        return test.pixels[int(image)], test.classes[label] if label >= 0 else ""
    try:
        data = Path(image).read_bytes()
    except OSError as error:
        raise UserError(
            f"{image!r} is no file that can be read ({error.strerror}), and no row of a test image"
        ) from None
    return decode(data, image, Decoding(**corpus_card()["decoding"])), ""
