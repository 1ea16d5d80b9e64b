"""What pages say: their links lead somewhere, their commands and keys exist, their code runs."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from predictors import predictor_of, stored_images

import rapipe
from rapipe.config import presets
from rapipe.config.loading import parse
from rapipe.config.schema import Params
from rapipe.config.yaml_text import read_yaml
from rapipe.methods import KINDS
from rapipe.prediction import onnx_files
from rapipe.records import Images
from website.commands import commands, options
from website.markdown import CODE, anchors, blocks, links, sections, slug, without_code
from website.repository import README, sources

PAGES = (README, *sources(ROOT))
CURRENT = tuple(page for page in PAGES if page != "CHANGELOG.md")
"""The changelog names what is gone, too."""


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def lines_of(page: str) -> Iterator[str]:
    """Every line of a code block without a language, and every code in a sentence."""
    text = text_of(page)
    for language, code in blocks(text):
        if not language:
            yield from code.replace("\\\n", " ").splitlines()
    for match in CODE.finditer(without_code(text)):
        yield " ".join(match[1].split())


def words_of(line: str) -> list[str]:
    """The words of a command up to the end of it: a comment, a pipe, the next command."""
    words = shlex.split(line, comments=True)
    ends = [n for n, word in enumerate(words) if word in ("&&", "|", ">", ";")]
    return words[: ends[0]] if ends else words


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page: str) -> None:
    wrong = []
    for link in links(text_of(page)):
        if link.external:
            continue
        target = ((ROOT / page).parent / link.path).resolve() if link.path else ROOT / page
        if not target.exists():
            wrong.append(f"{link.path} is not there")
        elif link.anchor and link.anchor not in anchors(target.read_text()):
            wrong.append(f"{link.path}#{link.anchor}: no such heading")
    assert not wrong


@pytest.mark.parametrize("page", CURRENT)
def test_commands_exist_and_have_the_options(page: str) -> None:
    known = commands()
    wrong = []
    for line in lines_of(page):
        if not line.startswith("rapipe "):
            continue
        name, *rest = words_of(line.replace("[", " ").replace("]", " "))
        while rest and f"{name} {rest[0]}" in known:
            name, rest = f"{name} {rest[0]}", rest[1:]
        if hasattr(known[name], "commands") and rest and not rest[0].startswith("-"):
            wrong.append(f"{line}: {rest[0]} is no command")
        spelled = {word for word in rest if re.fullmatch(r"--?[a-z][a-z-]*", word)}
        wrong += [f"{line}: no option {word}" for word in spelled - options(known[name])]
        named = {"rapipe preset": presets.PRESETS, "rapipe methods": KINDS}.get(name)
        if named and rest and re.match(r"[a-z]", rest[0]) and rest[0] not in named:
            wrong.append(f"{line}: {rest[0]} is not one of {', '.join(named)}")
    assert not wrong


@pytest.mark.parametrize("page", CURRENT)
def test_ablations_name_parameters_and_values_that_are_valid(page: str) -> None:
    for line in lines_of(page):
        if line.startswith("dvc exp run") and "KEY=VALUE" not in line:
            words = words_of(line)
            raw = read_yaml(text_of("params.yaml"))
            for flag, setting in pairwise(words):
                if flag == "-S":
                    key, _, value = setting.partition("=")
                    group, _, name = key.rpartition(".")
                    content = raw[group] if group else raw
                    assert name in content, f"{line}: there is no {key}"
                    if value != "...":
                        content[name] = read_yaml(value)
            parse(raw)


@pytest.mark.parametrize("page", CURRENT)
def test_yaml_blocks_are_valid_parameters(page: str) -> None:
    for language, code in blocks(text_of(page)):
        if language == "yaml":
            raw = read_yaml(text_of("params.yaml"))
            for group, values in read_yaml(code).items():
                raw[group] |= values
            parse(raw)


@pytest.mark.parametrize("page", CURRENT)
def test_modules_that_are_run_exist(page: str) -> None:
    for line in lines_of(page):
        if match := re.match(r"python -m ((?:stages|study|benchmarks|tests|website)[\w.]*)", line):
            path = ROOT / match[1].replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), line


def python_blocks(page: str) -> list[str]:
    return [code for language, code in blocks(text_of(page)) if language == "python"]


def test_every_python_block_is_run_somewhere_and_names_what_exists() -> None:
    """The README's runs in test_api.py, the others below."""
    found = {page: python_blocks(page) for page in CURRENT}
    assert {page for page, codes in found.items() if codes} == {
        README,
        "docs/memory.md",
        "docs/predict.md",
    }
    for codes in found.values():
        for code in codes:
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "rapipe":
                    assert node.attr in rapipe.__all__


def test_the_block_on_lancedb_runs(in_tiny: Params) -> None:
    import lancedb

    (code,) = python_blocks("docs/memory.md")
    rows = lancedb.connect("data/store").open_table("memory").search().limit(1).to_list()
    assert "id = 123" in code
    assert "class = 'cat'" in code
    code = code.replace("id = 123", f"id = {rows[0]['id']}")
    code = code.replace("class = 'cat'", f"class = '{rows[0]['class']}'").replace(
        "to_pandas()", "to_list()"
    )
    names: dict[str, Any] = {}
    exec(compile(code, "docs/memory.md", "exec"), names)
    assert len(names["vector"]) == len(rows[0]["vector"])


def test_the_blocks_on_predictors_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second makes and exports a predictor, which the first one loads."""
    monkeypatch.setattr(onnx_files, "PACKAGES", ("no_such_package",))  # takes seconds
    monkeypatch.chdir(tmp_path)
    loading, making = python_blocks("docs/predict.md")
    images: Images = stored_images()
    predictor = predictor_of(side=32)
    known = images.take(np.flatnonzero(images.labels >= 0))
    names = {
        "rapipe": rapipe,
        "classifier": predictor.classifier,
        "retriever": predictor.retriever,
        "train": images,
        "splits": {"validation": known},
    }
    exec(compile(making, "docs/predict.md", "exec"), names)
    Path("photos").mkdir()
    for name in ("1.jpg", "2.jpg", "photos/3.jpg"):
        Image.fromarray(images.pixels[0]).save(name)
    exec(compile(loading, "docs/predict.md", "exec"), names)
    assert names["skipped"] == []


def test_markdown_is_read_as_github_does() -> None:
    text = (
        "# A `b`: c?\n\n```\n# no heading\n[no](link.md)\n```\n\n## Two\n\n[x](y.md#z)\n\n## Two\n"
    )
    assert anchors(text) == {"a-b-c", "two", "two-1"}
    assert [(link.path, link.anchor) for link in links(text)] == [("y.md", "z")]
    assert slug("Is it [a link](x.md)?") == "is-it-a-link"
    parts = sections("top\n## One\n1\n```\n## no\n```\n## Two\n2\n")
    assert list(parts) == ["", "One", "Two"]
    assert "".join(parts.values()).endswith("## no\n```\n## Two\n2\n")
