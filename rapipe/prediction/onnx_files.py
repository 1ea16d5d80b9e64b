"""The networks of a predictor as ONNX files, each compared with torch before it is kept.

Letters: N images, B batch, S side in pixels, K neighbours, D embedding.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rapipe.classifier.neighbour_batch import Shown
from rapipe.corpus.decode import pixel_hash
from rapipe.encoder.encoder import Encoder
from rapipe.errors import ArgumentError, first_line
from rapipe.prediction.graphs import ClassifierGraph, EncoderGraph
from rapipe.prediction.predictor import Predictor
from rapipe.progress import say
from rapipe.records import Neighbours, Pixels
from rapipe.specs import LABELS, SIMILARITIES, VECTORS

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
ENCODER_ONNX, CLASSIFIER_ONNX = "encoder.onnx", "classifier.onnx"
TOLERANCE = {"fp32": 1e-4, "bf16": 0.05}
"""Most that an output may differ from torch's, as a share of the largest one or of 1, by the
precision that torch computes in; a file is always of float32."""
EXAMPLES = 3
"""Images that outputs are compared on, and that a network is traced with."""

Arrays = dict[str, npt.NDArray[Any]]
Facts = dict[str, Any]


class DiffersError(Exception):
    """A network gives other numbers as ONNX than in torch."""


def write_onnx(
    predictor: Predictor, folder: Path, pixels: Pixels | None = None
) -> dict[str, Facts]:
    """Write `encoder.onnx` and `classifier.onnx`, as far as that is possible.

    Both take `images`, float (B, 3, S, S) in [0, 1], any number B of them. The encoder gives
    `vectors` (B, D) of unit length. The classifier takes what its fusion sees of K neighbours:
    `vectors` (B, K, D), `labels` (B, K) with -1 for none, `similarities` (B, K); and
    `query_vectors` (B, D) where images see their own. It gives `logits` (B, C).

    Args:
        pixels: (N, S, S, 3), images to compare outputs on; random ones unless given.

    Returns:
        For each network its `file`, the shapes of its `inputs`, the `tolerance`, and the
        `difference` that was measured; or the `error`. Nothing where packages are missing, which
        is told.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        say(
            f"no ONNX files, since {', '.join(missing)} is not installed: pip install "
            "'rapipe[export]' and export again"
        )
        return {}
    squares = _examples(predictor, pixels)
    images = {"images": squares.transpose(0, 3, 1, 2).astype(np.float32) / 255}
    ids = np.array([pixel_hash(square) for square in squares], np.int64)
    neighbours = predictor.neighbours(ids, squares)
    facts: dict[str, Facts] = {}
    if predictor.retriever and isinstance(predictor.retriever.encoder, Encoder):
        encoder = predictor.retriever.encoder
        graph, expected = EncoderGraph(encoder, predictor.size), encoder.embed(squares)
        tolerance = TOLERANCE[encoder.spec.precision]
        file = folder / ENCODER_ONNX
        facts["encoder"] = _told(file, lambda: _write(graph, images, expected, file, tolerance))
    of_neighbours = {**images, **_shown(predictor, neighbours)}
    network, logits = ClassifierGraph(predictor.classifier, predictor.size), predictor.logits
    target, closeness = folder / CLASSIFIER_ONNX, TOLERANCE["fp32"]
    facts["classifier"] = _told(
        target,
        lambda: _write(network, of_neighbours, logits(squares, neighbours), target, closeness),
    )
    return facts


def _examples(predictor: Predictor, pixels: Pixels | None) -> Pixels:
    """A few images, some of them drawn if there are too few."""
    size = predictor.size
    drawn = np.random.default_rng(0).integers(0, 256, (EXAMPLES, size, size, 3), np.uint8)
    if pixels is None:
        return drawn
    if pixels.shape[1:] != drawn.shape[1:]:
        raise ArgumentError(f"`pixels` are {pixels.shape[1:]}; they must be {drawn.shape[1:]}")
    return np.concatenate([pixels, drawn])[:EXAMPLES]


def _shown(predictor: Predictor, neighbours: Neighbours | None) -> Arrays:
    """What the classifier's fusion sees of the neighbours of some images, by name."""
    if predictor.retriever is None or neighbours is None:
        return {}
    bank, inputs = predictor.retriever.bank, predictor.classifier.inputs
    _, indices, query_vectors, similarities = Shown.of(None, neighbours)
    arrays: Arrays = {}
    if indices is not None and neighbours.k:
        arrays = {
            VECTORS: bank.vectors[indices],
            LABELS: bank.labels[indices],
            SIMILARITIES: np.asarray(similarities),
        }
        arrays = {name: array for name, array in arrays.items() if name in inputs}
    if query_vectors is not None:
        arrays["query_vectors"] = query_vectors
    return arrays


def _told(file: Path, write: Callable[[], Facts]) -> Facts:
    """What `write` returns; where it fails, the reason, which is told, and no file."""
    try:
        with _quiet():
            return write()
    except Exception as error:  # torch and the runtime raise anything of what they do not know
        file.unlink(missing_ok=True)
        reason = first_line(_root(error))
        say(f"warning: no {file.name}, since this network cannot be exported to it: {reason}")
        return {"error": reason}


def _root(error: BaseException) -> BaseException:
    """The error that others were raised of."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error


def _write(
    module: nn.Module, inputs: Arrays, expected: npt.NDArray[Any], file: Path, tolerance: float
) -> Facts:
    """Write one file, and compare what it gives with what torch gives."""
    output = "vectors" if file.name == ENCODER_ONNX else "logits"
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in inputs.items()}
    program = torch.onnx.export(
        module.eval(),
        kwargs=tensors,
        input_names=list(inputs),
        output_names=[output],
        dynamic_shapes={name: {0: "batch"} for name in inputs},
        dynamo=True,
        optimize=False,  # the runtime does so, and the optimiser of onnxscript fails on some
        verbose=False,
    )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # lines of source code, with folders of this machine
    program.save(file)
    difference = _difference(file, inputs, expected)
    if not difference <= tolerance:
        raise DiffersError(f"it differs from torch by {difference:.2g}, more than {tolerance:g}")
    return {
        "file": file.name,
        "inputs": {name: ["batch", *array.shape[1:]] for name, array in inputs.items()},
        "output": output,
        "tolerance": tolerance,
        "difference": difference,
    }


def _difference(file: Path, inputs: Arrays, expected: npt.NDArray[Any]) -> float:
    """The largest, as a share of the largest output or of 1; of all images, and of each alone."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    scale = max(1.0, float(np.abs(expected).max()))
    differences = []
    for rows in (slice(None), *(slice(i, i + 1) for i in range(len(expected)))):
        (output,) = session.run(None, {name: array[rows] for name, array in inputs.items()})
        differences.append(float(np.abs(output - expected[rows]).max()) / scale)
    return max(differences)


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings and reports of torch's exporter, and none of its fused kernels."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        torch.backends.mha.set_fastpath_enabled(False)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
