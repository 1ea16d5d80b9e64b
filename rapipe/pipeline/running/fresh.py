"""Which variants of a stage are out of date: what DVC knows of stages, for each variant in one.

DVC runs a stage where any of its dependencies has changed. Of its variants those are made again
of which a part has changed that they depend on: plain classifiers depend on nothing of retrieval.
What each was made from stands in `data/made/<stage>/<variant>.json`, an output of the stage too.
DVC has no cache of runs for outputs that persist, so those of variants are kept here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.config.variants import Variant
from rapipe.config.yaml_text import read_yaml
from rapipe.io.checksums import CHECKSUMS, is_intact, sha256
from rapipe.io.links import link
from rapipe.io.tables import fingerprint, read_checksummed, write_checksummed

RETRIEVAL = "retrieval."
RETRIEVAL_INPUTS = (paths.ENCODER, paths.NEIGHBOURS)
"""What variants without retrieval do not need."""
SELECTING = {
    "train": ("classifiers.backbones", "classifiers.seeds", "retrieval.strategies"),
    "evaluate": ("classifiers.backbones", "classifiers.seeds"),
}
"""By stage, parameters that say which variants there are, and decide nothing of any one."""
CODE = ("rapipe/", f"{paths.CODE.as_posix()}/")
"""Begin the names of code among what a stage depends on: of modules, or of their fingerprints."""
MARK = "made.json"
Facts = dict[str, Any]


class Freshness:
    """What each variant of a stage is made from, as dvc.yaml lists it.

    Args:
        stage: train or evaluate.
    """

    def __init__(self, stage: str, params: Params) -> None:
        declared = read_yaml(paths.PIPELINE.read_text(encoding="utf-8"))["stages"][stage]
        outs = (next(iter(out)) if isinstance(out, dict) else out for out in declared["outs"])
        self._marks = paths.MADE / stage
        self._outs = [path for path in map(Path, outs) if path != self._marks]
        self._inputs = [Path(dep) for dep in declared["deps"] if not dep.startswith(CODE)]
        self._code = _content(Path(dep) for dep in declared["deps"] if dep.startswith(CODE))
        keys = (key for key in declared["params"] if key not in SELECTING[stage])
        values = asdict(params)
        self._params = {key: reduce(getitem, key.split("."), values) for key in keys}

    def made_from(self, variant: Variant) -> Facts:
        """What the present code, parameters and inputs would make the variant from."""
        params, inputs = self._params, self._inputs
        if variant.retrieval == "none":
            params = {key: v for key, v in params.items() if not key.startswith(RETRIEVAL)}
            inputs = [path for path in inputs if path not in RETRIEVAL_INPUTS]
        parts = [part for path in inputs for part in _parts(path, variant)]
        return {"code": self._code, "params": fingerprint(params), "inputs": _digests(parts)}

    def is_fresh(self, variant: Variant) -> bool:
        """Whether its outputs are whole, and those that would be made again."""
        outputs = self._outputs(variant)
        made = {"from": self.made_from(variant), "outputs": _digests(outputs)}
        return read_checksummed(self._mark(variant)) == made and _intact(outputs)

    def note(self, variant: Variant, made_from: Facts) -> None:
        """Write down what the present outputs of a variant have been made from, and keep them."""
        outputs = self._outputs(variant)
        made = {"from": made_from, "outputs": _digests(outputs)}
        write_checksummed(self._mark(variant), made)
        kept = self._kept(variant, made_from)
        for path in outputs:
            link(path, kept / path)
        write_checksummed(kept / MARK, made)

    def restore(self, variant: Variant, made_from: Facts) -> bool:
        """Bring back the outputs that were made from the same before, if they are kept."""
        kept = self._kept(variant, made_from)
        made = read_checksummed(kept / MARK)
        outputs = {Path(name): kept / name for name in made.get("outputs", ())}
        digests = _digests(outputs.values()).values()
        if (
            not outputs
            or [*digests] != [*made["outputs"].values()]
            or not _intact(outputs.values())
        ):
            return False
        for path, copy in outputs.items():
            link(copy, path)
        write_checksummed(self._mark(variant), made)
        return True

    def _kept(self, variant: Variant, made_from: Facts) -> Path:
        return paths.VARIANTS_CACHE / f"{self._marks.name}-{variant.name}-{fingerprint(made_from)}"

    def _mark(self, variant: Variant) -> Path:
        return self._marks / f"{variant.name}.json"

    def _outputs(self, variant: Variant) -> list[Path]:
        names = (variant.name, f"{variant.name}.json")
        return [out / name for out in self._outs for name in names if (out / name).exists()]


def _parts(path: Path, variant: Variant) -> list[Path]:
    """The folders in an input that belong to a variant; the input itself if it has none such."""
    names = (variant.name, variant.backbone, variant.retrieval, paths.BANK.name)
    return [path / name for name in names if (path / name).exists()] or [path]


def _intact(artefacts: Iterable[Path]) -> bool:
    return all(is_intact(path) for path in artefacts if path.is_dir())


def _digests(artefacts: Iterable[Path]) -> dict[str, str]:
    """Of a folder, that of its checksum file; nothing of what is missing."""
    files = {path: path / CHECKSUMS if path.is_dir() else path for path in artefacts}
    return {str(path): sha256(file) if file.is_file() else "" for path, file in files.items()}


def _content(folders: Iterable[Path]) -> str:
    """A digest of all source files in some folders, and of single ones."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in [folder] if folder.is_file() else sorted(folder.rglob("*.py")):
            digest.update(f"{file} {sha256(file)}\n".encode())
    return digest.hexdigest()
