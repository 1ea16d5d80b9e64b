"""The explorer: its answers are those of the evaluation, and its server lets nobody else in."""

from __future__ import annotations

import asyncio
import json
import re
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rapipe import metrics
from rapipe.batches.transforms import gaussian_noise
from rapipe.classifier.neighbour_batch import Shown
from rapipe.config.schema import Params
from rapipe.errors import ArgumentError, UserError
from rapipe.evaluation.corruptions import CORRUPTIONS
from rapipe.explore.explorer import UPLOADS, Explorer
from rapipe.explore.export import export, spread
from rapipe.explore.layout import lay_out, pca
from rapipe.explore.map_data import MapData, map_of, packed
from rapipe.explore.mistakes import FUSION, RETRIEVAL, RIGHT, SAVED, WRONG, mistakes
from rapipe.explore.project import Project, png
from rapipe.explore.questions import Hidden, Question
from rapipe.explore.reasons import reason
from rapipe.explore.server import MOST_UPLOADED, application, page_files
from rapipe.pipeline import explore as pipeline
from rapipe.retrieval.search import search

HOST = "127.0.0.1:8000"


@pytest.fixture(scope="module")
def project(tiny: tuple[Path, Params]) -> Iterator[Project]:
    """The tiny pipeline's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tiny[0])
        yield pipeline.project_of(tiny[1])


@pytest.fixture(scope="module")
def explorer(project: Project) -> Explorer:
    return Explorer(project)


def name_of(project: Project, retrieval: str) -> str:
    return next(t.name for t in project.classifiers.values() if t.retrieval == retrieval)


def asked(project: Project, row: int, retrieval: str = "knn", **changes: Any) -> Question:
    return Question(int(project.test.ids[row]), name_of(project, retrieval), **changes)


def neighbour_ids(answer: dict[str, Any]) -> list[int]:
    return [int(row["id"]) for row in answer["neighbours"]]


@pytest.mark.parametrize("retrieval", ["none", "knn"])
def test_answers_are_those_of_the_evaluation(explorer: Explorer, retrieval: str) -> None:
    project, std = explorer.project, 0.1
    name, test = name_of(project, retrieval), project.test
    noisy = gaussian_noise(test.pixels, test.ids, std, project.seed)
    shown = Shown()
    if retrieval != "none":
        bank, on_device = explorer.view(Hidden())
        retriever = explorer.retriever(project.classifiers[name], 0, bank)
        shown = Shown.of(on_device, retriever.neighbours(retriever.queries(test, noisy)))
    expected = metrics.softmax(explorer.classifier(name).predict(noisy, *shown))
    for row in range(5):
        answer = explorer.ask(asked(project, row, retrieval, noise_std=std))
        assert answer["picture"] == png(noisy[row])
        first = answer["predictions"][0]["classes"][0]
        assert first["class"] == test.classes[expected[row].argmax()] == answer["predicted"]
        assert first["probability"] == pytest.approx(expected[row].max(), abs=1e-6)
        assert answer["truth"] == test.classes[test.labels[row]]


def test_neighbours_are_the_nearest_and_their_effect_is_what_leaving_them_out_takes(
    explorer: Explorer,
) -> None:
    project, question = explorer.project, asked(explorer.project, 3)
    answer, memory = explorer.ask(question), explorer.memory
    image = project.test.take(np.array([3]))
    vectors = memory.encoder.embed(image.pixels)
    expected = search(vectors, memory.bank, memory.request.k, image.ids)
    assert neighbour_ids(answer) == memory.bank.ids[expected.indices[0]].tolist()
    classifier = explorer.classifier(question.classifier)
    shown = Shown.of(explorer.view(Hidden()).on_device, expected)
    label = list(project.test.classes).index(answer["predicted"])

    def probability(shown: Shown) -> float:
        return float(metrics.softmax(classifier.predict(image.pixels, *shown))[0, label])

    for column in (0, memory.request.k - 1):
        effect = probability(shown) - probability(shown.without(column))
        assert answer["neighbours"][column]["effect"] == pytest.approx(effect, abs=1e-6)
    weights = [row["attention"] for row in answer["neighbours"]]
    assert 0 < sum(weights) <= 1 + 1e-4  # the network has the rest
    right = sum(row["class"] == answer["truth"] for row in answer["neighbours"])
    assert answer["purity"] == pytest.approx(right / answer["k"])


def test_what_is_hidden_is_not_retrieved(explorer: Explorer) -> None:
    project, bank = explorer.project, explorer.memory.bank
    everything = explorer.ask(asked(project, 0))
    first, second, *_ = neighbour_ids(everything)
    answer = explorer.ask(asked(project, 0, hidden=Hidden(ids=frozenset([first]))))
    assert neighbour_ids(answer)[: answer["k"] - 1] == neighbour_ids(everything)[1:]
    assert neighbour_ids(answer)[0] == second
    gone = everything["neighbours"][0]["class"]
    answer = explorer.ask(asked(project, 0, hidden=Hidden(classes=frozenset([gone]))))
    assert gone not in {row["class"] for row in answer["neighbours"]}
    assert answer["bank"] == (bank.labels != list(explorer.memory.classes).index(gone)).sum()


def test_rows_outside_a_version_are_hidden(project: Project) -> None:
    assert project.memory is not None
    bank = project.memory.bank
    memory = replace(project.memory, versions={"half": lambda: bank.ids[::2]})
    explorer = Explorer(replace(project, memory=memory))
    answer = explorer.ask(asked(project, 0, hidden=Hidden(version="half")))
    assert set(neighbour_ids(answer)) <= set(bank.ids[::2].tolist())


@pytest.mark.parametrize(
    ("hidden", "sentence"),
    [
        (Hidden(classes=frozenset(["cat"])), "`hidden.classes` is 'cat'; it must be one of"),
        (Hidden(sources=frozenset(["moon"])), "`hidden.sources` is 'moon'"),
        (Hidden(version="v9"), "`hidden.version` is 'v9'; it must be one of none"),
    ],
)
def test_what_is_not_there_cannot_be_hidden(
    explorer: Explorer, hidden: Hidden, sentence: str
) -> None:
    with pytest.raises(ArgumentError, match=re.escape(sentence)):
        explorer.ask(asked(explorer.project, 0, hidden=hidden))


def test_hiding_too_much_is_a_sentence(explorer: Explorer) -> None:
    hidden = Hidden(sources=frozenset(explorer.memory.bank.sources.tolist()))
    with pytest.raises(ArgumentError, match="`k`"):
        explorer.ask(asked(explorer.project, 0, hidden=hidden))


def test_a_corruption_is_that_of_the_evaluation(explorer: Explorer) -> None:
    test = explorer.project.test
    corrupted = CORRUPTIONS["fog"](test.pixels, test.ids, 4, explorer.project.seed)
    answer = explorer.ask(asked(explorer.project, 2, corruption="fog", severity=4))
    assert answer["picture"] == png(corrupted[2])


def test_other_k(explorer: Explorer) -> None:
    assert len(explorer.ask(asked(explorer.project, 0, k=3))["neighbours"]) == 3
    with pytest.raises(ArgumentError, match="`k` is 1000000"):
        explorer.ask(asked(explorer.project, 0, k=1_000_000))


def test_an_own_vector_is_no_neighbour(project: Project) -> None:
    name = name_of(project, "knn")
    alone = replace(project.classifiers[name], retrieval="self")
    explorer = Explorer(replace(project, classifiers={name: alone}))
    answer = explorer.ask(Question(int(project.test.ids[0]), name))
    assert (answer["neighbours"], answer["vote"], answer["k"]) == ([], [], 0)
    assert [p["name"] for p in answer["predictions"]][:2] == [
        "with its own vector",
        "the same, shown nothing",
    ]
    assert "It sees the image's own vector, and no neighbours." in answer["why"]


def test_an_image_of_a_user(explorer: Explorer) -> None:
    pixels = explorer.project.test.pixels[1]
    brought = explorer.upload(png(255 - pixels))
    answer = explorer.ask(Question(brought, name_of(explorer.project, "knn")))
    assert (answer["truth"], answer["purity"], answer["picture"]) == ("", None, png(255 - pixels))
    assert "It says" in answer["why"]
    with pytest.raises(ArgumentError, match="this file is no image that can be read"):
        explorer.upload(b"no image")
    for value in range(UPLOADS):
        explorer.upload(png(np.full_like(pixels, value)))
    with pytest.raises(ArgumentError, match="bring it again"):
        explorer.image(brought)


def facts_of(truth: str, first: str, without: str, vote: list[tuple[str, int]]) -> dict[str, Any]:
    """An answer with 10 neighbours, in which the first prediction is 60 % sure."""

    def prediction(name: str) -> dict[str, Any]:
        return {"classes": [{"class": name, "probability": 0.6}], "of_truth": 0.1}

    return {
        "truth": truth,
        "predicted": first,
        "predictions": [prediction(first), prediction(without)],
        "neighbours": [{}] * 10,
        "vote": [{"class": name, "count": count} for name, count in vote],
        "retrieval": "knn",
        "k": 10,
    }


@pytest.mark.parametrize(
    ("facts", "phrases"),
    [
        (
            facts_of("cat", "dog", "cat", [("dog", 7), ("cat", 3)]),
            ["Wrong: it says dog, 60% sure; it is cat", "Retrieval failed", "mislead it"],
        ),
        (
            facts_of("cat", "dog", "dog", [("cat", 8), ("dog", 2)]),
            [
                "Retrieval found the class: of 10 neighbours, 8 are cat",
                "does not follow its neighbours",
            ],
        ),
        (facts_of("cat", "dog", "owl", [("dog", 10)]), ["none is cat", "wrong both ways"]),
        (facts_of("cat", "dog", "dog", [("dog", 10)]), ["its neighbours do not mend it"]),
        (facts_of("cat", "cat", "dog", [("cat", 9)]), ["Right: it says cat", "neighbours help"]),
        (facts_of("cat", "cat", "cat", [("cat", 9)]), ["do not decide it"]),
        (
            facts_of("", "cat", "dog", [("cat", 9)]),
            ["Of its 10 neighbours, 9 are cat", "decide it"],
        ),
        (facts_of("cat", "cat", "cat", []), ["None of the 10 neighbours has a class"]),
    ],
)
def test_reasons(facts: dict[str, Any], phrases: list[str]) -> None:
    assert all(phrase in reason(facts) for phrase in phrases), reason(facts)


def test_mistakes_by_a_slow_loop(explorer: Explorer) -> None:
    project, name = explorer.project, name_of(explorer.project, "knn")
    listed = mistakes(explorer, name)
    classes, counts = project.test.classes, np.zeros((len(project.test.classes),) * 2, int)
    for row in listed["rows"][:12]:
        answer = explorer.ask(Question(int(row["id"]), name))
        most = answer["vote"][0]["class"]
        right, found = answer["predicted"] == answer["truth"], most == answer["truth"]
        assert classes[row["predicted"]] == answer["predicted"]
        assert row["purity"] == pytest.approx(answer["purity"], abs=1e-4)
        expected = (RIGHT if found else SAVED) if right else (FUSION if found else RETRIEVAL)
        assert row["outcome"] == expected
    for row in listed["rows"]:
        counts[row["truth"], row["predicted"]] += 1
    assert counts.tolist() == listed["confusion"]
    assert listed["top1"] == pytest.approx(np.trace(counts) / counts.sum())
    assert all(float(row["effect"]) < 0 for row in listed["harmful"])
    outcomes = {row["outcome"] for row in mistakes(explorer, name_of(project, "none"))["rows"]}
    assert outcomes <= {RIGHT, WRONG}


def test_pca_is_that_of_a_singular_value_decomposition() -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32) * [5, 3, 1, 1, 1, 1]
    points, centred = pca(vectors, 0), vectors - vectors.mean(axis=0)
    expected = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    assert np.allclose(np.abs(points), np.abs(expected), atol=1e-3)
    laid_out = lay_out("pca", vectors, 0)
    assert np.abs(laid_out).max() == pytest.approx(1)
    assert pca(vectors[:, :1], 0).shape == (300, 2)
    with pytest.raises(ArgumentError, match="`method` is 'tsne'; it must be one of pca, umap"):
        lay_out("tsne", vectors, 0)


def test_the_map_has_every_image_once_and_survives_its_file(
    project: Project, tmp_path: Path
) -> None:
    assert project.memory is not None
    drawn = map_of(project)
    splits = (project.splits["validation"], project.splits["test"])
    assert len(drawn.ids) == len(project.memory.bank) + sum(map(len, splits))
    drawn.write(tmp_path)
    again = MapData.read(tmp_path)
    assert all(np.array_equal(getattr(again, n), getattr(drawn, n)) for n in ("ids", "points"))
    data, facts = packed(drawn, len(project.memory.classes))
    n = len(drawn.ids)
    assert len(data) == 22 * n
    assert np.array_equal(np.frombuffer(data, "<i8", n), drawn.ids)
    codes = np.frombuffer(data, "<i2", n, offset=20 * n)
    assert np.array(facts["splits"])[codes].tolist() == drawn.splits.tolist()


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ([], "a question must be a JSON object"),
        ({"image": 7}, "`image` must be the id of an image"),
        ({"image": "7", "classifier": 1}, "`classifier` must be a text"),
        ({"image": "7", "k": -1}, "`k` is -1"),
        ({"image": "7", "k": True}, "`k` must be a whole number"),
        ({"image": "7", "noise_std": 2}, "`noise_std` is 2.0; it must be 0 to 1"),
        ({"image": "7", "noise_std": float("nan")}, "`noise_std` is nan"),
        ({"image": "7", "corruption": "rain"}, "`corruption` is 'rain'; it must be one of gauss"),
        ({"image": "7", "corruption": "fog", "severity": 6}, "`severity`: 6 is none of 1, 2"),
        ({"image": "7", "hidden": {"ids": ["x"]}}, "`hidden.ids` must be the id of an image"),
        ({"image": "7", "hidden": {"classes": "cat"}}, "`hidden.classes` must be a list of texts"),
    ],
)
def test_questions_that_are_none(facts: Any, sentence: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(sentence)):
        Question.of_json(facts)


class Client:
    """Calls the server's application as uvicorn does."""

    def __init__(self, explorer: Explorer) -> None:
        hosts = frozenset({HOST, "localhost:8000"})
        self.app = application(explorer, lambda: map_of(explorer.project), hosts)

    def __call__(
        self, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body or b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        pairs = {"host": HOST, **{k.replace("_", "-"): v for k, v in headers.items()}}
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET" if body is None else "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(k.encode(), v.encode()) for k, v in pairs.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
            "scheme": "http",
        }
        asyncio.run(self.app(scope, receive, send))
        head = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        return sent[0]["status"], head, b"".join(m.get("body", b"") for m in sent[1:])

    def json(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        status, _, content = self(path, body, **headers)
        return status, json.loads(content)


@pytest.fixture(scope="module")
def client(explorer: Explorer) -> Client:
    return Client(explorer)


def test_the_server_answers(client: Client, project: Project) -> None:
    status, about = client.json("/api/about")
    assert status == 200
    assert [int(row["id"]) for row in about["test"]] == project.test.ids.tolist()
    question = {"image": about["test"][0]["id"], "classifier": name_of(project, "knn")}
    status, answer = client.json("/api/ask", json.dumps(question).encode())
    assert status == 200
    assert answer["picture"].startswith("data:image/png;base64,")
    status, head, content = client(f"/picture/{answer['neighbours'][0]['id']}.png")
    assert (status, head["content-type"]) == (200, "image/png")
    assert Image.open(BytesIO(content)).size == project.test.pixels.shape[1:3]
    status, kept = client.json("/api/upload", png(project.test.pixels[0]))
    assert kept == {"image": question["image"]}
    status, facts = client.json("/api/map")
    assert len(client("/api/map.bin")[2]) == 22 * facts["count"]
    assert client.json(f"/api/mistakes/{question['classifier']}")[1]["rows"]
    for name in page_files():
        status, head, _ = client("/" if name == "index.html" else f"/page/{name}")
        assert status == 200
        assert "default-src 'self'" in head["content-security-policy"]


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        ("/api/ask", b"{", 400, "a question must be JSON"),
        ("/api/ask", b"[" * 100_000, 400, "a question must be JSON"),
        ("/api/ask", b'{"image": "1", "classifier": "x"}', 400, "`classifier` is 'x'; it must be"),
        ("/api/upload", b"", 400, "this file is no image that can be read"),
        ("/api/upload", bytes(MOST_UPLOADED + 1), 413, "an image may have 32 MB at most"),
        ("/api/mistakes/x", None, 400, "`classifier` is 'x'"),
        ("/picture/12.png", None, 404, "no image has this id"),
        ("/picture/..%2fparams.png", None, 404, ""),
        ("/page/../../params.yaml", None, 404, ""),
        ("/page/explorer.py", None, 404, "there is no 'explorer.py'"),
    ],
)
def test_bad_requests_get_a_sentence(
    client: Client, path: str, body: bytes | None, status: int, sentence: str
) -> None:
    got, _, content = client(path, body)
    assert got == status
    assert sentence in content.decode()
    assert b"Traceback" not in content


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8000"}, 200),
        ({"origin": f"http://{HOST}"}, 200),
        ({"host": "evil.example:8000"}, 403),
        ({"host": "127.0.0.1:80"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-origin"}, 200),
    ],
)
def test_others_are_refused(client: Client, headers: dict[str, str], status: int) -> None:
    for path, body in (("/", None), ("/api/ask", b"{}"), ("/api/about", None)):
        got = client(path, body, **headers)[0]
        assert (got == 403) == (status == 403)


def test_the_page_needs_nothing_from_elsewhere() -> None:
    files = page_files()
    text = b"".join(files.values()).decode()
    assert {"index.html", "style.css", "app.js"} <= set(files)
    assert "http" not in text.replace("https", "http").replace("http.", "")
    assert "innerHTML" not in text
    assert "eval(" not in text
    for source in re.findall(r'(?:src|href)="([^"]+)"', files["index.html"].decode()):
        assert source.startswith("data:") or source.removeprefix("page/") in files


def test_a_static_copy_holds_all_that_it_shows(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rapipe.explore.export.MOST_MAPPED", 20)
    small = replace(project, noise_std=(0.1,))
    explorer, name = Explorer(small), name_of(project, "knn")
    export(explorer, tmp_path, [name], 3, map_of(small))
    text = (tmp_path / "page/data.js").read_text().partition("= ")[2].strip().rstrip(";")
    data = json.loads(text)
    ids = spread(project.test, 3).tolist()
    assert set(data["answers"]) == {f"{name}|{i}|{std}" for i in ids for std in ("0", "0.1")}
    answer = data["answers"][f"{name}|{ids[0]}|0"]
    expected = explorer.ask(Question(ids[0], name))
    assert answer["neighbours"] == expected["neighbours"]
    pictures = {path.stem for path in (tmp_path / "pictures").iterdir()}
    assert {row["id"] for row in answer["neighbours"]} <= pictures
    assert {row["id"] for row in data["mistakes"][name]["rows"]} <= pictures
    points = np.frombuffer(b64decode(data["map"]["points"]), "<i8", data["map"]["count"])
    assert len(points) == 20
    assert set(map(str, points.tolist())) <= pictures
    page = (tmp_path / "index.html").read_text()
    assert '<script src="page/data.js"></script>' in page
    assert all((tmp_path / source).exists() for source in re.findall(r'src="([^"]+)"', page))


def test_spread_takes_of_each_class(project: Project) -> None:
    classes = len(project.test.classes)
    chosen = np.isin(project.test.ids, spread(project.test, classes))
    assert sorted(project.test.labels[chosen].tolist()) == list(range(classes))
    with pytest.raises(ArgumentError, match="`count` is 0"):
        export(Explorer(project), Path("nowhere"), [], 0, None)


def test_nothing_is_written(in_tiny: Params) -> None:
    def listing() -> dict[str, float]:
        return {str(p): p.stat().st_mtime_ns for p in Path().rglob("*") if p.is_file()}

    before = listing()
    project = pipeline.project_of(in_tiny)
    explorer = Explorer(project)
    explorer.ask(asked(project, 0))
    mistakes(explorer, name_of(project, "knn"))
    pipeline.present_map(in_tiny, project)
    assert listing() == before


def test_a_map_on_disk_is_used_while_it_is_of_the_bank(
    tiny: tuple[Path, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    shutil.copytree(tiny[0], tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    params = tiny[1]
    pipeline.draw(params, "pca")
    project = pipeline.project_of(params)
    drawn = map_of(project)
    monkeypatch.setattr(pipeline, "map_of", lambda _: pytest.fail("it is on disk"))
    assert np.array_equal(pipeline.present_map(params, project).points, drawn.points)
    monkeypatch.setattr(pipeline, "map_of", lambda _: drawn)
    monkeypatch.setattr(MapData, "read", lambda _: pytest.fail("it is of another seed"))
    monkeypatch.setattr(pipeline, "map_facts", lambda _: {"seed": 9})
    assert pipeline.present_map(params, project) is drawn


def test_a_port_that_is_taken_is_a_sentence() -> None:
    with pipeline.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port} cannot be had"):
            pipeline.listen("127.0.0.1", port)


def test_nothing_trained_is_a_sentence(
    tiny: tuple[Path, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is trained: run dvc repro"):
        pipeline.project_of(tiny[1])
    Path("there").mkdir()
    with pytest.raises(UserError, match="--export there is there already"):
        pipeline.export(tiny[1], Path("there"), 3)
