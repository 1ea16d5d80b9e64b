"""`rapipe explore`: the explorer of this project's artefacts, in a browser or as a static copy."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from rapipe import paths
from rapipe.classifier.classifier import Classifier
from rapipe.config.schema import Params
from rapipe.config.variants import Variant
from rapipe.corpus.decode import Decoding
from rapipe.device import device
from rapipe.encoder.imported import read_encoder
from rapipe.errors import UserError
from rapipe.explore.explorer import Explorer
from rapipe.explore.map_data import MapData, map_of
from rapipe.explore.project import Memory, Project, Row, Trained
from rapipe.io import provenance
from rapipe.io.folders import atomic_folder
from rapipe.io.tables import read_rows, write_json
from rapipe.io.text import expand_home
from rapipe.pipeline.inputs import (
    PARAMS,
    audit_facts,
    bank_card,
    checked,
    classifier_card,
    corpus_card,
    images_of,
    labelled,
    present_bank,
    read_card,
    read_result,
)
from rapipe.pipeline.memory.edit import open_store
from rapipe.pipeline.requests import request_of
from rapipe.pipeline.results import read_duplicates
from rapipe.pipeline.trained import trained_variants
from rapipe.progress import say
from rapipe.records import SPLITS, Embeddings, Ids

LOOPBACK = ("127.0.0.1", "localhost", "::1")
CARD = "card.json"


def serve(params: Params, host: str, port: int, opened: bool) -> None:
    """Serve the explorer until Ctrl-C.

    Args:
        host: the address to listen at.
        port: 0 for any that is free.
        opened: whether to open a browser.

    Raises:
        UserError: the extra is not installed, nothing is trained, or the address is taken.
    """
    try:
        import uvicorn

        from rapipe.explore.server import application
    except ImportError:
        raise UserError("the explorer needs pip install 'rapipe[explore]'") from None

    project = project_of(params)
    with closing(listen(host, port)) as listening:
        name, port = host or "127.0.0.1", listening.getsockname()[1]
        hosts: frozenset[str] = frozenset()
        if host in LOOPBACK:
            hosts = frozenset(f"{alias}:{port}" for alias in ("127.0.0.1", "localhost", "[::1]"))
        else:
            say(f"whoever reaches port {port} of {host} sees these images: Ctrl-C ends it")
        app = application(Explorer(project), partial(present_map, params, project), hosts)
        url = f"http://{f'[{name}]' if ':' in name else name}:{port}/"
        print(url, flush=True)
        if opened:
            import webbrowser

            webbrowser.open(url)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        server.run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address; `UserError` if it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"--host {host} --port {port} cannot be had ({reason}): name another --port"
        ) from None
    listening.listen()
    return listening


def export(params: Params, folder: Path, count: int) -> None:
    """Write a static copy, of the first seed of every backbone and strategy.

    Raises:
        UserError: the folder is there already, or nothing is trained.
    """
    from rapipe.explore.export import export as write

    folder = expand_home(folder)
    if folder.exists():
        raise UserError(f"--export {folder} is there already: name a folder that is not")
    project = project_of(params)
    first: dict[tuple[str, str], str] = {}
    for trained in project.classifiers.values():
        first.setdefault((trained.backbone, trained.retrieval), trained.name)
    drawn = present_map(params, project) if project.memory else None
    with atomic_folder(folder) as partial_folder:
        write(Explorer(project), partial_folder, list(first.values()), count, drawn)
    say(f"open {folder / 'index.html'}")


def draw(params: Params, method: str) -> None:
    """Write `data/map`: where each image stands, by a method of `LAYOUTS`."""
    project = project_of(params)
    drawn = map_of(project, method)
    with atomic_folder(paths.MAP) as folder:
        drawn.write(folder)
        write_json(folder / CARD, {PARAMS: map_facts(params)})
    say(f"{len(drawn.ids):,} images are mapped by {method}")


def map_facts(params: Params) -> dict[str, Any]:
    """What a map is of."""
    return {**present_bank(params)[PARAMS], "corpus": corpus_card()["hash"], "seed": params.seed}


def present_map(params: Params, project: Project) -> MapData:
    """The map that `draw` has written, or where that is of other images, one by pca."""
    if paths.MAP.exists() and read_card(paths.MAP / CARD)[PARAMS] == map_facts(params):
        return MapData.read(checked(paths.MAP))
    return map_of(project)


def project_of(params: Params) -> Project:
    """All that the present parameters have made.

    Raises:
        UserError: no classifier is trained, or what they look up is missing.
    """
    classifiers = {v.name: t for v in trained_variants(params) if (t := trained_of(params, v))}
    if not classifiers:
        raise UserError("no classifier of params.yaml is trained: run dvc repro")
    retrieves = any(trained.retrieval != "none" for trained in classifiers.values())
    return Project(
        test=labelled("test"),
        splits={split: images_of(split) for split in SPLITS},
        classifiers=classifiers,
        memory=memory_of(params) if retrieves else None,
        decoding=Decoding(**corpus_card()["decoding"]),
        noise_std=sorted(params.evaluate.noise_std),
        seed=params.seed,
    )


def trained_of(params: Params, variant: Variant) -> Trained | None:
    """A classifier; None, and a line that says so, unless the present parameters trained it."""
    try:
        classifier_card(params, variant)
    except UserError as error:
        say(f"{variant.name} is left out: {error}")
        return None
    return Trained(
        variant.name,
        variant.backbone,
        variant.retrieval,
        params.retrieval.fusion if variant.retrieval != "none" else "",
        variant.seed,
        partial(_read, paths.MODELS / variant.name),
        partial(_influence, paths.EVIDENCE / variant.name / paths.INFLUENCE),
    )


def _read(folder: Path) -> Classifier:
    return Classifier.read(checked(folder))[0]


def _influence(path: Path) -> list[Row]:
    return [*read_rows(checked(path))] if path.exists() else []


def memory_of(params: Params) -> Memory:
    """The bank, the encoder, and the tagged versions of the store."""
    present_bank(params)
    return Memory(
        bank=Embeddings.read(checked(paths.BANK)),
        encoder=read_encoder(checked(paths.ENCODER), paths.VECTORS).to(device()),
        request=request_of(params),
        classes=bank_card()["classes"],
        versions=versions(),
        duplicates=_duplicates(params),
    )


def versions() -> dict[str, Callable[[], Ids]]:
    """By tag, the ids of the rows of a version of the store; none where there is no store."""
    if not paths.STORE_MANIFEST.exists():
        return {}
    store = open_store()

    def ids_of(tag: str) -> Ids:
        return store.all_rows.take(store.members(store.history.resolve(tag))).ids

    return {tag: partial(ids_of, tag) for tag in store.history.tags()}


def _duplicates(params: Params) -> list[Row]:
    """Test images close to the bank, as the audit listed them; none if it is of another bank."""
    try:
        audit = read_result(paths.LEAKAGE)
        provenance.check(paths.LEAKAGE, audit.get(PARAMS), audit_facts(params), "audit")
        return [*read_duplicates(audit)]
    except UserError as error:
        say(f"near duplicates are left out: {error}")
        return []
