"""The site: every page is reached, every link leads somewhere, nothing comes from elsewhere."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from conftest import ROOT

import rapipe
from rapipe import methods
from website import check
from website.__main__ import HERE, build, gather
from website.commands import commands
from website.markdown import anchors, links, plain
from website.methods import TITLES


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages without the pictures that are drawn."""
    out = tmp_path_factory.mktemp("site") / "pages"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("website.methods.PICTURES", {})
        gather(out)
    return out


def test_every_page_is_in_the_navigation(pages: Path) -> None:
    assert not list(check.left_out(HERE / "zensical.toml", pages))
    (pages / "stray.md").write_text("# Stray\n")
    lines = list(check.left_out(HERE / "zensical.toml", pages))
    (pages / "stray.md").unlink()
    assert lines == ["stray.md is not in the navigation of zensical.toml"]


def test_links_between_pages_are_those_of_the_site(pages: Path) -> None:
    for file in pages.rglob("*.md"):
        for link in links(file.read_text()):
            if not link.external:
                target = file.parent / link.path if link.path else file
                assert target.exists(), f"{file.name}: {link.path}"
                if link.anchor:
                    assert link.anchor in anchors(target.read_text()), f"{file.name}: {link}"


def test_pages_that_are_made_have_all_that_there_is(pages: Path) -> None:
    assert tuple(sorted(TITLES)) == tuple(sorted(methods.KINDS))
    for row in methods.rows():
        assert f"\n## {row['name']}\n" in (pages / f"methods/{row['kind']}.md").read_text()
    api = (pages / "api.md").read_text()
    assert all(f"heading: rapipe.{name}\n" in api for name in rapipe.PUBLIC)
    reference = (pages / "command-line.md").read_text()
    assert all(f"\n## {name}\n" in reference for name in commands())
    parameters = (pages / "parameters.md").read_text()
    schema = json.loads((ROOT / "params.schema.json").read_text())
    for key in schema["$defs"]["RetrievalParams"]["properties"]:
        assert f"\n### retrieval.{key}\n" in parameters
    assert "Integer, from 1 to 1,000. Default: `32`." in parameters


def test_text_of_the_code_is_shown_as_it_is() -> None:
    assert plain("a|b [c] <d> `e|f`") == r"a\|b \[c\] \<d\> `e|f`"


def test_what_is_wrong_with_a_site_is_said(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        '<link rel="stylesheet" href="style.css"><script src="https://cdn.example/x.js"></script>'
        '<h1 id="top">x</h1><a href="#top">1</a><a href="other.html#none">2</a>'
        '<a href="gone.html">3</a><a href="https://example.org">4</a><img src="/picture.png">'
    )
    (tmp_path / "other.html").write_text('<p id="some">x</p>')
    (tmp_path / "picture.png").touch()
    (tmp_path / "style.css").write_text("@import 'https://fonts.example/css';")
    assert sorted(check.problems(tmp_path)) == [
        "index.html links to gone.html, which is not there",
        "index.html links to other.html#none, but that page has no such anchor",
        "index.html loads https://cdn.example/x.js",
        "style.css loads https://fonts.example/css",
    ]


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec("zensical"), reason="pip install 'rapipe[docs]', or make docs"
)
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    assert build(tmp_path / "work", tmp_path / "site") == []
    assert "load_images" in (tmp_path / "site/api.html").read_text()
    assert list((tmp_path / "site").rglob("search*"))
