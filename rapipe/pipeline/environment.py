"""What a report of a defect should say of an installation; `rapipe doctor` prints it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from importlib import metadata

from packaging.requirements import Requirement

import rapipe
from rapipe import paths

VERSIONED = ("torch", "faiss-cpu", "lancedb", "numpy", "dvc")
"""Packages whose versions are told; `constraints.txt` has those that were tested together."""


def environment() -> dict[str, str]:
    """A sentence on each of `PARTS`; what cannot be found out says why."""
    facts = {}
    for name, describe in PARTS.items():
        try:
            facts[name] = describe()
        except (OSError, ImportError, RuntimeError) as error:
            facts[name] = f"unknown ({error})"
    return facts


def _versions() -> str:
    python = sys.version.split()[0]
    packages = [f"{name} {installed_version(name) or 'missing'}" for name in VERSIONED]
    return ", ".join([f"rapipe {rapipe.__version__}", f"Python {python}", *packages])


def _device() -> str:
    from rapipe.device import device, processor

    return f"{device()}, {processor()}"


def _precision() -> str:
    from rapipe.training.precision import known_precision

    known = known_precision("auto", paths.PRECISION)
    return f"auto is {known}" if known else "auto is measured by the first training"


def _extras() -> str:
    requirements = [Requirement(line) for line in metadata.requires("rapipe") or []]
    names = metadata.metadata("rapipe").get_all("Provides-Extra") or []
    complete = [name for name in names if all(map(_is_met, _of_extra(requirements, name)))]
    return ", ".join(complete) or "none"


def _of_extra(requirements: list[Requirement], extra: str) -> list[Requirement]:
    return [need for need in requirements if need.marker and need.marker.evaluate({"extra": extra})]


def _is_met(need: Requirement) -> bool:
    version = installed_version(need.name)
    return version is not None and need.specifier.contains(version, prereleases=True)


def installed_version(name: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


PARTS: dict[str, Callable[[], str]] = {
    "versions": _versions,
    "platform": platform.platform,
    "device": _device,
    "precision": _precision,
    "extras": _extras,
}
