"""A checkout of this repository in another folder, to run the pipeline and inject faults in."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapipe.config.yaml_text import read_yaml, write_yaml

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
REPRODUCIBLE = (
    *("data/generated", "data/corpus", "data/encoder", "data/vectors", "data/store.json"),
    *("data/neighbours", "data/baselines", "data/initial", "data/models", "data/evidence"),
    *("data/made", "results"),
)
"""What must be the same bytes in every run. Files of `data/store` have random names."""
LEFT = (
    *("data/store", "data/costs", "data/checkpoints", "data/locks", "data/raw", "data/README.md"),
)
"""What else may lie in `data` after any run, disturbed or not."""


@dataclass(frozen=True)
class Clone:
    """The tracked files of the working tree, with their current content, in a new repository."""

    path: Path

    @classmethod
    def make(cls, path: Path) -> Clone:
        """Copy them into a new or empty folder."""
        command = ["git", "ls-files", "-co", "--exclude-standard"]
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        for name in listing.stdout.splitlines():
            if (ROOT / name).is_file() and not name.startswith(("results/", "dvc.lock")):
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, path / name)
        clone = cls(path)
        clone.call("git", "init", "-q")
        clone.call("git", "add", "-A")
        clone.call("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "clone")
        return clone

    def copy(self, path: Path) -> Clone:
        """A copy with all its outputs, in another folder."""
        shutil.copytree(self.path, path, symlinks=True)
        return Clone(path)

    @property
    def env(self) -> dict[str, str]:
        """This environment's programs come first, and the checkout's modules."""
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        site_cache = str(self.path / ".dvc/tmp/site")  # DVC's, else outside of the checkout
        facts = {"PATH": path, "PYTHONPATH": str(self.path), "DVC_SITE_CACHE_DIR": site_cache}
        return {**os.environ, **facts}

    @property
    def with_site(self) -> dict[str, str]:
        """The same, and programs in it install `tests.faults.dying`."""
        site = os.pathsep.join((str(self.path), str(self.path / "tests/faults/site")))
        return {**self.env, "PYTHONPATH": site}

    def call(self, *command: str) -> str:
        """Run a command, which must succeed, and return its output."""
        done = subprocess.run(
            command, cwd=self.path, env=self.env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, output: Path, *command: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start a command in a new process group; its output goes to the file `output`.

        It ignores Ctrl-C if this process does, as programs do that a shell starts with `&`.

        Args:
            variables: environment variables to add.
        """
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("wb") as file:
            return subprocess.Popen(
                command,
                cwd=self.path,
                env={**self.env, **variables},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def remove(self, artefacts: Iterable[Path]) -> None:
        """Remove files and folders, as DVC does before it runs a stage that writes them."""
        for artefact in artefacts:
            path = self.path / artefact
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(True)

    def shrink(self) -> None:
        """Write params.yaml: all stages with something to do, in as few seconds as possible."""
        self.call("rapipe", "preset", "tiny")
        file = self.path / "params.yaml"
        params: dict[str, Any] = read_yaml(file.read_text())
        params["corpus"]["sources"] = [{"kind": "digits", "limit": 400}]
        pretraining = {"encoder": "alexnet", "epochs": 3, "batch_size": 32, "learning_rate": 0.05}
        params["pretrain"].update(pretraining)
        params["retrieval"]["strategies"] = ["knn"]
        params["classifiers"]["backbones"] = ["alexnet+pretrained"]
        params["train"].update(epochs=3, precision="fp32")
        params["evaluate"]["attributed"] = 5
        file.write_text(write_yaml(params))

    def files(self) -> Iterator[tuple[str, Path]]:
        """Name and path of each file in `data` and `results`, without the folders in `LEFT`."""
        for top in ("data", "results"):
            for file in sorted((self.path / top).rglob("*")):
                name = file.relative_to(self.path).as_posix()
                if file.is_file() and not any(within(name, folder) for folder in LEFT):
                    yield name, file

    def hashes(self) -> dict[str, str]:
        """SHA-256 checksum of every artefact that must be the same in every run, by name."""
        return {
            name: hashlib.sha256(file.read_bytes()).hexdigest()
            for name, file in self.files()
            if any(within(name, folder) for folder in REPRODUCIBLE)
        }


def within(name: str, folder: str) -> bool:
    """Whether a path is this folder or inside it."""
    return name == folder or name.startswith(folder + "/")
