"""Folders to work in, each a rapipe project: its params.yaml, and links to shared artefacts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rapipe import paths
from rapipe.config import presets
from rapipe.config.loading import parse
from rapipe.config.yaml_text import write_yaml
from rapipe.io.atomic import atomic_write

ROOT = Path(__file__).parent.parent
Content = dict[str, Any]
"""What params.yaml holds."""
Overrides = dict[str, Any]
"""Parameters by their full names, and the values they get."""


def preset_content(preset: str) -> Content:
    """The parameters of a preset."""
    content: Content = json.loads(json.dumps(asdict(parse(presets.content(preset)))))
    return content


def override(content: Content, overrides: Overrides) -> Content:
    """Parameters with some of them changed."""
    changed = {
        group: dict(values) if isinstance(values, dict) else values
        for group, values in content.items()
    }
    for key, value in overrides.items():
        group, name = key.split(".")
        changed[group][name] = value
    return changed


@contextmanager
def working_in(folder: Path, content: Content) -> Iterator[None]:
    """Work in a folder whose params.yaml has this content."""
    folder.mkdir(parents=True, exist_ok=True)
    text = write_yaml(content).encode()
    file = folder / paths.PARAMS
    if not file.is_file() or file.read_bytes() != text:  # else others may be reading it
        atomic_write(file, text)
    raw = folder / paths.RAW
    if not raw.exists():  # or it leads to where the project was before it got another folder
        raw.parent.mkdir(exist_ok=True)
        link = raw.with_name(f"raw-{os.getpid()}")
        link.symlink_to(os.path.relpath((ROOT / paths.RAW).resolve(), raw.parent.resolve()))
        link.replace(raw)
    with chdir(folder):
        yield
