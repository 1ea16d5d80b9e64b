"""Gather the pages, build the site, check its links: `make docs`, or `python -m website`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from website import api, check, commands, methods, parameters, repository

HERE = Path(__file__).parent
ROOT = HERE.parent
WORK = ROOT / "build/website"
SITE = ROOT / "site"


def gather(out: Path) -> None:
    """Write every page, picture and style into a folder, which is made anew."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    repository.write(ROOT, out)
    api.write(out)
    commands.write(out)
    methods.write(out)
    parameters.write(ROOT, out)
    shutil.copy(HERE / "style.css", out)


def build(work: Path, site: Path) -> list[str]:
    """Build the site by way of a working folder; returns what is wrong with it."""
    gather(work / "pages")
    shutil.copy(HERE / "zensical.toml", work)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    print(done.stdout + done.stderr, end="")
    if done.returncode or "griffe:" in done.stdout + done.stderr:
        return ["zensical has a warning or an error"]
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(work / "site", site)
    return [*check.left_out(work / "zensical.toml", work / "pages"), *check.problems(site)]


def main() -> None:
    """Build into `site/`; exit code 1 if a link leads nowhere or a page asks the network."""
    wrong = build(WORK, SITE)
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        raise SystemExit(1)
    print("open site/index.html")


if __name__ == "__main__":
    main()
