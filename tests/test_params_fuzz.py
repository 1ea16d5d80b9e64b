"""Properties of params.yaml, each on a few examples; `make soak` draws many more."""

from __future__ import annotations

import pytest
from hypothesis import given

from soak.params import PROPERTIES


@pytest.mark.parametrize("name", PROPERTIES)
def test_whatever_a_params_file_holds(name: str) -> None:
    drawn, promise = PROPERTIES[name]

    @given(drawn)
    def holds(example: object) -> None:
        promise(example)

    holds()
