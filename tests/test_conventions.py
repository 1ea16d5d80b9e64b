"""What other tools read of the project: citation, types, workflows."""

from __future__ import annotations

import re
import tomllib

import pytest
from conftest import ROOT

import rapipe
from rapipe.config.yaml_text import read_yaml

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def test_the_citation_is_of_this_version() -> None:
    citation = read_yaml((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == rapipe.__version__
    assert citation["license"] == PROJECT["project"]["license"]


def test_types_travel_with_the_package() -> None:
    assert (ROOT / "rapipe/py.typed").exists()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["rapipe"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path: object) -> None:
    """And each job ends by itself, with no more rights than it needs."""
    text = path.read_text()  # type: ignore[attr-defined]
    uses = re.findall(r"uses: (.+)", text)
    assert uses
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+", line) for line in uses)
    workflow = read_yaml(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())


def test_every_python_that_is_promised_is_tested() -> None:
    workflow = read_yaml((ROOT / ".github/workflows/test.yml").read_text())
    classifiers = " ".join(PROJECT["project"]["classifiers"])
    promised = re.findall(r"Python :: (3\.\d+)", classifiers)
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == promised
