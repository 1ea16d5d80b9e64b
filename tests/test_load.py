"""A million images within 4 GB, each as cheap as one of a hundred thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.load import STAGES, corpus_of

GIGABYTES = 4
FLAT = 1.5
"""How many times dearer an image of the larger corpus may be."""


def test_a_limit_is_held(tmp_path: Path) -> None:
    """Who needs more than the limit is killed: else to finish would show nothing."""
    import sys

    from tests.faults.load import limited, run

    with limited(1) as group:
        if group is None:
            pytest.skip("no control group can be created")
    usage = run([sys.executable, "-c", "bytearray(500_000_000)"], tmp_path, 0.2)
    assert usage["exit"] == -9
    assert run([sys.executable, "-c", "bytearray(50_000_000)"], tmp_path, 0.2)["exit"] == 0


@pytest.mark.huge
@pytest.mark.timeout(7200)
def test_a_million_images(tmp_path: Path) -> None:
    costs = {}
    for rows in (100_000, 1_000_000):
        folder = tmp_path / str(rows)
        folder.mkdir()
        costs[rows] = corpus_of(rows, folder, GIGABYTES)
    small, large = costs.values()
    for stage in STAGES:
        assert large[stage]["exit"] == 0
        assert large[stage]["own_peak_gb"] < GIGABYTES
        flat = large[stage]["microseconds_an_image"] / small[stage]["microseconds_an_image"]
        assert flat < FLAT, stage
