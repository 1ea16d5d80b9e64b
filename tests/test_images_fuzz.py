"""Images, files and names drawn at random; `tests.faults.images` says what must hold for each."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.images import PROPERTIES


@pytest.mark.parametrize("name", PROPERTIES)
def test_images_files_and_names(name: str) -> None:
    drawn, check = PROPERTIES[name]

    @given(st.data())
    def holds(data: Any) -> None:
        check(data.draw(drawn))

    holds()
