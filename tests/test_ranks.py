"""Several processes that train one network: the batches, losses and weights of one device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import ranked

from rapipe.pipeline.running.ranks import launch

ROUNDING = 2e-4
"""Of losses after a few steps, relative: sums of float32 come in another order."""
BATCHNORM = 0.2
"""Where each process normalises over its own half of a batch of 16."""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def on_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Histories of all trainings on two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    launch(ranked.each, 2, list(ranked.TRAININGS), folder)
    return folder


@pytest.mark.parametrize("name", ranked.TRAININGS)
def test_two_ranks_learn_what_one_device_does(name: str, on_two: Path, tmp_path: Path) -> None:
    alone = ranked.rows(name, tmp_path / "alone")
    together = json.loads((on_two / f"{name}.json").read_text())
    tolerance = BATCHNORM if name.startswith("batchnorm") else ROUNDING
    assert len(alone) == len(together) > 1
    for one, other in zip(alone, together, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert other[key] == pytest.approx(one[key], rel=tolerance, nan_ok=True), key
