"""Push and pull against a hub on this machine: the same artefact, or one sentence and no change."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_hub import FakeHub, serving
from predictors import predictor_of
from test_export import check_same, flip
from typer.testing import CliRunner

import rapipe
from rapipe.cli import app
from rapipe.config.schema import Params
from rapipe.encoder import checkpoints
from rapipe.encoder.encoder import Encoder
from rapipe.errors import ArgumentError, UserError
from rapipe.hub.kinds import KINDS, MARKER, complete
from rapipe.hub.transfer import download, upload
from rapipe.io.checksums import write_checksums
from rapipe.pipeline import hub as commands
from rapipe.prediction import onnx_files
from rapipe.retrieval.store.vector_files import VectorFile

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
"""huggingface_hub uploads large files as its HTTP library no longer likes it."""
REPO = "org/digits"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub without repositories; files are exported without ONNX, which takes seconds."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr(onnx_files, "PACKAGES", ("no_such_package",))
    root = tmp_path / "hub"
    root.mkdir()
    fake = FakeHub(root)
    with serving(fake, tmp_path / "cache", monkeypatch):
        yield fake


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A folder to push: an encoder."""
    folder = tmp_path / "encoder"
    folder.mkdir()
    made: Any = predictor_of().retriever.encoder  # type: ignore[union-attr]
    made.write(folder, {})
    complete(folder, KINDS["encoder"], "an encoder")
    return folder


def push(folder: Path, what: str = "encoder", private: bool = False, revision: str = "") -> str:
    return upload(folder, REPO, KINDS[what], private, revision)


def pull(folder: Path, what: str = "encoder", revision: str = "") -> str:
    return download(REPO, KINDS[what], folder, revision)


def content(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_an_encoder_comes_back_and_starts_a_pretraining(
    hub: FakeHub, encoder: Path, tmp_path: Path
) -> None:
    assert push(encoder).startswith(hub.endpoint)
    out = tmp_path / "deep/pulled"
    words = pull(out)
    assert f"pretrain.init: {out}" in words
    assert "alexnet" in words
    assert content(out) == content(encoder)
    read, written = Encoder.read(out), Encoder.read(encoder)
    pixels = np.zeros((2, 16, 16, 3), np.uint8)
    np.testing.assert_array_equal(read.embed(pixels), written.embed(pixels))
    described = checkpoints.describe("alexnet", str(out))
    assert (described.mean, described.std) == (read.spec.mean, read.spec.std)
    assert "classifier" not in checkpoints.read(str(out))
    pull(out)  # an unchanged one is replaced
    (out / "card.json").write_text("mine")
    with pytest.raises(ArgumentError, match="other files than a pull, or changed ones"):
        pull(out)
    assert (out / "card.json").read_text() == "mine"


def test_a_classifier_comes_back_and_predicts_the_same(hub: FakeHub, tmp_path: Path) -> None:
    predictor, folder = predictor_of(), tmp_path / "exported"
    rapipe.export(predictor, folder)
    complete(folder, KINDS["classifier"], "a classifier")
    push(folder, "classifier", private=True)
    assert hub.private == {REPO}
    assert "a classifier of 3 classes, with a memory of 40" in pull(tmp_path / "x", "classifier")
    check_same(rapipe.load(tmp_path / "x"), predictor)
    keys = {line["key"] for line in hub.commits[0]}
    assert keys == {"header", "file", "lfsFile"}
    assert len(hub.commits) == 1  # all or nothing
    alone = tmp_path / "alone"
    rapipe.export(predictor_of("none"), alone)
    complete(alone, KINDS["classifier"], "without a memory")
    push(alone, "classifier")
    assert set(content(hub.root / REPO)) == {*content(alone), ".gitattributes"}


def test_nothing_else_is_overwritten(hub: FakeHub, encoder: Path, tmp_path: Path) -> None:
    theirs = hub.root / REPO
    theirs.mkdir(parents=True)
    (theirs / "thesis.tex").write_text("words")
    with pytest.raises(ArgumentError, match=r"holds nothing that rapipe push wrote \(thesis"):
        push(encoder)
    with pytest.raises(ArgumentError, match=r"holds nothing that rapipe push wrote \(thesis"):
        pull(tmp_path / "out")
    assert not hub.commits
    (theirs / "thesis.tex").unlink()
    with pytest.raises(ArgumentError, match=r"`private`: .* is there already, and public"):
        push(encoder, private=True)
    push(encoder)
    for folder in (tmp_path / "mine", tmp_path / "mine/file"):
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine/file").write_text("words")
        with pytest.raises(ArgumentError, match="`folder` is"):
            pull(folder)
    assert content(tmp_path / "mine") == {"file": b"words"}


@pytest.mark.parametrize("name", ["weights.pkl", "pytorch_model.bin", "model.py", "a/card.json"])
def test_what_is_no_part_of_it_is_not_fetched(
    name: str, hub: FakeHub, encoder: Path, tmp_path: Path
) -> None:
    push(encoder)
    other = hub.root / REPO / name
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(b"cos\nsystem\n")
    hub.requests.clear()
    for act in (lambda: pull(tmp_path / "out"), lambda: push(encoder)):
        with pytest.raises(ArgumentError, match=rf"holds {name}, which is no part of a rapipe enc"):
            act()
    assert not any("/resolve/" in request for request in hub.requests)
    assert not (tmp_path / "out").exists()


def test_damage_is_found_before_anything_is_written(
    hub: FakeHub, encoder: Path, tmp_path: Path
) -> None:
    push(encoder)
    theirs, out = hub.root / REPO, tmp_path / "out"

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            pull(out)
        assert str(tmp_path) not in str(caught.value)
        assert not [path for path in tmp_path.iterdir() if "out" in path.name]

    flip(theirs / "weights.safetensors")
    refused(r"org/digits/weights\.safetensors is not what was written there .*; nothing was writ")
    write_checksums(theirs)
    refused(r"weights\.safetensors does not (load|match its card)")
    push(encoder)
    (theirs / "weights.safetensors").unlink()
    refused(r"weights\.safetensors is missing")
    push(encoder)
    (theirs / MARKER).write_text(json.dumps({"what": "encoder", "format": 2, "rapipe": "9.0"}))
    refused(r"has the format 2, but rapipe .* install rapipe 9\.0")
    (theirs / MARKER).write_text(json.dumps({"what": "classifier", "format": 1}))
    refused("holds a rapipe classifier, not encoder")
    push(encoder)
    hub.cut.add("weights.safetensors")
    refused("the hub did not do it")
    hub.cut.clear()
    pull(out)


@pytest.mark.parametrize(
    ("status", "message"), [(401, "hf auth login"), (403, "hf auth login"), (503, "answers 503")]
)
def test_who_may_not_is_told(
    status: int, message: str, hub: FakeHub, encoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"the hub has no https://huggingface\.co/org/digits, or"):
        pull(tmp_path / "out")
    hub.unwritable = status
    with pytest.raises(UserError, match=message):
        push(encoder)
    hub.unwritable = 0
    push(encoder)
    hub.gated[REPO] = status
    with pytest.raises(UserError, match=message):
        pull(tmp_path / "out")


def test_revisions_and_a_network_that_is_down(
    hub: FakeHub, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    push(encoder, revision="v2")
    assert any(request == f"POST /api/models/{REPO}/branch/v2" for request in hub.requests)
    assert any(request == f"POST /api/models/{REPO}/commit/v2" for request in hub.requests)
    with pytest.raises(UserError, match="has no such revision: name a branch"):
        pull(tmp_path / "out", revision="v3")
    with pytest.raises(ArgumentError, match="`repository` is 'digits'; write OWNER/NAME"):
        download("digits", KINDS["encoder"], tmp_path / "out", "")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for act in (lambda: pull(tmp_path / "out"), lambda: push(encoder)):
        with pytest.raises(UserError, match=r"org/digits: the hub is out of reach: mend the netw"):
            act()


def test_telemetry_is_off() -> None:
    code = "from rapipe.io.hub import library as l; assert l().constants.HF_HUB_DISABLE_TELEMETRY"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("what", KINDS)
def test_the_commands_of_a_project(
    what: str, in_tiny: Params, hub: FakeHub, tmp_path: Path
) -> None:
    options = ["--what", what, "--source-licence", "digits=cc-by-sa-3.0"]
    runner = CliRunner()
    refused = runner.invoke(app, ["push", REPO, *options])
    assert refused.exit_code == 2
    assert f"the licence of this {what} is unknown: name the one" in refused.stderr
    options += ["--licence", "mit"]
    preview = runner.invoke(app, ["push", REPO, *options, "--dry-run"])
    assert preview.exit_code == 0, preview.stderr
    assert "nothing was sent" in preview.stderr
    assert "README.md" in preview.stdout
    assert not hub.requests
    done = runner.invoke(app, ["push", REPO, *options])
    assert done.exit_code == 0, done.stderr
    folder = tmp_path / "pulled"
    pulled = runner.invoke(app, ["pull", REPO, str(folder), "--what", what])
    assert pulled.exit_code == 0, pulled.stderr
    assert f"{folder} holds" in pulled.stderr
    card = (folder / "README.md").read_text()
    assert "license: mit" in card.split("---\n")[1].splitlines()
    assert "| digits | digits | task | " in card
    assert " | cc-by-sa-3.0 |" in card
    assert ("| self hits | " in card) == (what != "encoder")
    assert ("## Scores" in card) == (what != "memory")
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".npy", ".arrow", ".md", ".parquet", ""}
    if what == "memory":
        file = VectorFile.open(folder / "memory.parquet")
        assert (file.ids, file.paths) == ("id", "")
        assert (hub.root / "datasets" / REPO).is_dir()


def test_mistakes_of_a_pusher(in_tiny: Params, hub: FakeHub) -> None:
    def refused(message: str, **changes: Any) -> None:
        request = commands.Request(**{"what": "encoder", "licence": "mit", **changes})
        with pytest.raises(UserError, match=message):
            commands.push(in_tiny, REPO, request, True)

    refused(r"--classifier is 'x', but --what is encoder", classifier="x")
    refused(r"--licence is 'My Own', which is no id of a licence", licence="My Own")
    refused(
        r"--source-licence is 'cats=mit'; write NAME=LICENCE, with a name of digits",
        source_licences=("cats=mit",),
    )
    refused(r"--classifier is 'x'; trained ones are", what="classifier", classifier="x")
    with pytest.raises(UserError, match="REPO is 'x'; write OWNER/NAME"):
        commands.push(in_tiny, "x", commands.Request("encoder"), True)
    assert not hub.requests


def test_an_authors_licence_stays() -> None:
    request = commands.Request("encoder")
    assert commands._licence({"licence": "Apache-2.0"}, request) == "apache-2.0"
    with pytest.raises(UserError, match=r"author gives it under cc-by-nc-4\.0: leave --lic"):
        commands._licence({"licence": "cc-by-nc-4.0"}, commands.Request("encoder", licence="mit"))


def test_no_path_of_this_machine_goes_up() -> None:
    facts = {"pretrain.init": "/home/me/w.pt", "classifiers.init": {"resnet18": "/home/me/x.pt"}}
    assert commands._public(facts) == {
        "pretrain.init": "w.pt",
        "classifiers.init": {"resnet18": "x.pt"},
    }
    named = {"init": "hf:facebook/dinov2-small", "pretrain.init": "", "revision": "abc"}
    assert commands._public(named) == named
