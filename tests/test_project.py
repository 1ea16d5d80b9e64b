"""Projects of the installed package: what `init` writes, what `run` runs, what `upgrade` renews."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from PIL import Image
from test_dvc import STAGES, stale_after
from typer.main import get_command

from rapipe import paths
from rapipe.cli import app
from rapipe.config import presets
from rapipe.config.json_schema import json_schema
from rapipe.config.loading import load
from rapipe.config.yaml_text import read_yaml
from rapipe.errors import UserError
from rapipe.pipeline.project import code, run, scaffold
from rapipe.pipeline.running.check_names import load_checked


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the preset tiny, which is the working directory."""
    folder = tmp_path / "project"
    scaffold.init(folder, "tiny")
    monkeypatch.chdir(folder)
    return folder


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_init_makes_what_dvc_git_and_editors_need(project: Path) -> None:
    assert load_checked(paths.PARAMS).retrieval.k == presets.content("tiny")["retrieval"]["k"]
    first = paths.PARAMS.read_text().partition("\n")[0]
    assert first == f"# yaml-language-server: $schema={paths.SCHEMA}"
    assert json.loads(paths.SCHEMA.read_text()) == json.loads(json_schema())
    assert code.changed_stages() == []
    untracked = git(project, "status", "--short", "--untracked-files=all")
    for name in ("params.yaml", "dvc.yaml", "README.md", "data/raw/.gitkeep", ".rapipe/code/"):
        assert name in untracked
    (paths.DATA / "corpus").mkdir()
    (paths.DATA / "corpus/train.arrow").touch()
    assert "train.arrow" not in git(project, "status", "--short", "--untracked-files=all")


def test_the_pipeline_of_a_project_is_that_of_the_repository_but_for_the_code(
    project: Path,
) -> None:
    mine = read_yaml(paths.PIPELINE.read_text())
    assert mine["plots"] == read_yaml((ROOT / "dvc.yaml").read_text())["plots"]
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert list(mine["stages"]) == list(STAGES)
    for name, facts in mine["stages"].items():
        program, command, *options = facts["cmd"].split()
        assert program == "rapipe"
        assert set(options) <= {o for p in commands[command].params for o in p.opts}
        theirs = STAGES[name]
        assert {k: facts[k] for k in theirs if k not in ("cmd", "deps")} == {
            k: theirs[k] for k in theirs if k not in ("cmd", "deps")
        }
        data = [dep for dep in theirs["deps"] if not dep.startswith("rapipe/")]
        assert facts["deps"] == [*data, f".rapipe/code/{name}.txt"]
        assert Path(facts["deps"][-1]).is_file()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package's code, whose fingerprints are taken."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "rapipe", tmp_path / "package/rapipe", ignore=ignored)
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "package")
    return tmp_path / "package"


@pytest.mark.parametrize(
    "file",
    [
        "rapipe/report/page.py",
        "rapipe/classifier/fusions/cross_attention.py",
        "rapipe/pipeline/embed.py",
        "rapipe/pipeline/running/locks.py",
    ],
)
def test_other_code_runs_again_what_it_changes(
    file: str, package: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not code.changed_stages()
    with (package / file).open("a") as source:
        source.write("\n")
    covered = {
        stage
        for stage, facts in STAGES.items()
        if any(file == dep or file.startswith(f"{dep}/") for dep in facts["deps"])
    }
    assert covered <= stale_after(file)
    assert set(code.changed_stages()) == covered
    for stage in STAGES:
        if stage in covered:
            with pytest.raises(UserError, match=f"the stage {stage}: run rapipe upgrade"):
                code.check_code(stage)
        else:
            code.check_code(stage)
    scaffold.upgrade()
    assert not code.changed_stages()
    said = capsys.readouterr().err
    assert all(stage in said for stage in covered) if covered else "no code has changed" in said


def test_a_style_sheet_is_code_of_the_report(package: Path) -> None:
    before = code.fingerprint("report")
    (package / "rapipe/report/page.css").write_text("body {}")
    assert code.fingerprint("report") != before


def test_images_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "photos"
    colours = {"cat": "red", "dog": "blue"}
    for name in colours:
        (photos / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), colours[name]).save(photos / name / "1.png")
    monkeypatch.chdir(tmp_path)
    scaffold.init(Path("near"), images=Path("photos"))
    params = load(Path("near/params.yaml"))
    assert [(s.kind, s.path) for s in params.corpus.sources] == [("folder", str(photos))]
    assert (
        params.corpus.image_size
        == presets.content(presets.choose("own-images"))["corpus"]["image_size"]
    )
    deps = read_yaml(Path("near/dvc.yaml").read_text())["stages"]["corpus"]["deps"]
    assert str(photos) in deps
    shutil.move(photos, "inside/data/raw/photos")
    scaffold.init(Path("inside"), "tiny", Path("inside/data/raw/photos"))
    assert load(Path("inside/params.yaml")).corpus.sources[0].path == "data/raw/photos"
    deps = read_yaml(Path("inside/dvc.yaml").read_text())["stages"]["corpus"]["deps"]
    assert deps == ["data/generated", "data/raw", ".rapipe/code/corpus.txt"]
    Path("rows.parquet").touch()
    scaffold.init(Path("rows"), "tiny", Path("rows.parquet"))
    assert load(Path("rows/params.yaml")).corpus.sources[0].kind == "parquet"


def test_mistakes_are_told_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").touch()
    for arguments, words in (
        ((Path("new"), "nope"), "there is no preset 'nope'"),
        ((Path("new"), "", Path("nowhere")), "--images is 'nowhere', which is not there"),
        ((Path("new"), "", Path("text.txt")), "name a folder of images by class"),
        ((Path("text.txt"),), "text.txt is a file"),
    ):
        with pytest.raises(UserError, match=words):
            scaffold.init(*arguments)  # type: ignore[arg-type]
    assert [path.name for path in Path().iterdir()] == ["text.txt"]
    with pytest.raises(UserError, match="rapipe init makes a project"):
        scaffold.upgrade()
    with pytest.raises(UserError, match="rapipe init makes a project"):
        run.run()
    Path("dvc.yaml").touch()
    with pytest.raises(UserError, match="is there already"):
        scaffold.init(Path())


def test_what_is_there_stays(tmp_path: Path) -> None:
    """A repository with files of its own becomes a project too; in one a folder does."""
    git(tmp_path, "init", "--quiet")
    for name in ("README.md", ".gitignore"):
        (tmp_path / name).write_text("mine\n")
    scaffold.init(tmp_path)
    assert (tmp_path / "README.md").read_text() == (tmp_path / ".gitignore").read_text() == "mine\n"
    scaffold.init(tmp_path / "inner")
    assert not (tmp_path / "inner/.git").exists()
    assert (tmp_path / "inner/.dvc/config").exists()


def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    scaffold.init(tmp_path / "project")
    assert not (tmp_path / "project/.git").exists()
    assert "no_scm" in (tmp_path / "project/.dvc/config").read_text()


def test_upgrade_adds_new_parameters_and_keeps_values_and_edits(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = paths.PARAMS.read_text().splitlines(keepends=True)
    paths.PARAMS.write_text("".join(line for line in lines if not line.startswith("  fusion:")))
    with pytest.raises(UserError, match=r"retrieval\.fusion is missing"):
        load(paths.PARAMS)
    pipeline = paths.PIPELINE.read_text() + "# edited\n"
    paths.PIPELINE.write_text(pipeline)
    paths.PIPELINE_COPY.write_text("stages: {}\n")  # as an older version would have written it
    scaffold.upgrade()
    said = capsys.readouterr().err
    assert "params.yaml has now retrieval.fusion" in said
    assert "dvc.yaml was edited, and stays" in said
    expected = presets.content("tiny")
    assert load(paths.PARAMS).retrieval.k == expected["retrieval"]["k"]
    assert load(paths.PARAMS).retrieval.fusion == presets.content("digits")["retrieval"]["fusion"]
    assert paths.PARAMS.read_text().startswith(f"# yaml-language-server: $schema={paths.SCHEMA}")
    assert paths.PIPELINE.read_text() == pipeline
    assert pipeline.startswith(paths.PIPELINE_COPY.read_text())


def test_upgrade_renews_a_pipeline_that_was_not_edited(project: Path) -> None:
    new = paths.PIPELINE.read_text()
    for file in (paths.PIPELINE, paths.PIPELINE_COPY):
        file.write_text("stages: {}\n")
    scaffold.upgrade()
    assert paths.PIPELINE.read_text() == paths.PIPELINE_COPY.read_text() == new


@pytest.fixture
def ran(project: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands that were run; each only writes the names of its outputs' stage, and a count."""
    commands: list[str] = []
    stages = {
        facts["cmd"]: facts for facts in read_yaml(paths.PIPELINE.read_text())["stages"].values()
    }

    def stand_in(command: str) -> int:
        commands.append(command.removeprefix("rapipe ").split()[0])
        for out in [*stages[command]["outs"], *stages[command].get("metrics", ())]:
            path = Path(next(iter(out)) if isinstance(out, dict) else out)
            if path.suffix:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(command)
            else:
                path.mkdir(parents=True, exist_ok=True)
                (path / "file").write_text(command)
        return 0

    monkeypatch.setattr(run, "_run_command", stand_in)
    return commands


def test_run_runs_what_is_out_of_date(ran: list[str]) -> None:
    run.run()
    every = ["eval" if stage == "evaluate" else stage for stage in STAGES]
    assert ran == every
    ran.clear()
    run.run()
    assert ran == []
    run.run(force=True)
    assert ran == every
    ran.clear()
    paths.PARAMS.write_text(paths.PARAMS.read_text().replace("k: 4 ", "k: 3 "))
    run.run()
    assert ran == ["prefetch", "train", "eval", "report"]
    ran.clear()
    (paths.ENCODER / "file").write_text("damaged")
    run.run()
    assert ran == ["pretrain"]  # which makes the same again
    ran.clear()
    shutil.rmtree(paths.EVIDENCE)
    (paths.RAW / "new.png").touch()
    run.run()
    assert ran == ["generate", "corpus", "eval"]
    ran.clear()
    code.fingerprint_file("embed").write_text("other code\n")
    run.run()
    assert ran == ["embed"]


def test_run_stops_where_a_stage_fails(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_run_command", lambda command: 2 * command.endswith("corpus"))
    with pytest.raises(SystemExit, match="2"):
        run.run()
    assert [mark.stem for mark in run.MARKS.iterdir()] == ["generate"]


def test_run_runs_with_this_python(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run._run_command("rapipe --version") == 0
    assert run._run_command("python -c 'import sys; print(sys.executable); sys.exit(3)'") == 3
    assert sys.executable in capfd.readouterr().out


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from what git has of the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    tops = (
        "rapipe",
        "dvc.yaml",
        "params.schema.json",
        ".dvc",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    )
    for name in listed.split("\0"):
        if name.partition("/")[0] in tops and (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    [built] = folder.glob("*.whl")
    return built


def test_the_wheel_has_all_that_a_project_gets_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        folder = "rapipe/pipeline/project/files"
        assert archive.read(f"{folder}/pipeline.yaml") == (ROOT / "dvc.yaml").read_bytes()
        assert json.loads(archive.read(f"{folder}/params.schema.json")) == json.loads(json_schema())
    ours = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "rapipe").split()
    assert {name for name in names if ".dist-info/" not in name} == set(ours)


@pytest.mark.slow
def test_a_project_of_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    """Init, run, run again, upgrade after an edit of the code, DVC: far from the repository."""
    packages = tmp_path / "packages"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*install, str(packages), str(wheel)], check=True)
    programs = (packages / "bin", Path(sys.executable).parent, os.environ["PATH"])
    path = os.pathsep.join(map(str, programs))
    environment = {
        **os.environ,
        "PYTHONPATH": str(packages),
        "PATH": path,
        "CUDA_VISIBLE_DEVICES": "",
    }
    project = tmp_path / "project"

    def call(*command: str, folder: Path = project) -> str:
        options: dict[str, Any] = {"cwd": folder, "env": environment, "text": True}
        done = subprocess.run(command, capture_output=True, check=False, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    call("rapipe", "init", str(project), "--preset", "tiny", folder=tmp_path)
    where = call(sys.executable, "-c", "import rapipe; print(rapipe.__file__)")
    assert where.strip() == str(packages / "rapipe/__init__.py")
    assert "open results/index.html" in call("rapipe", "run")
    assert (project / "results/index.html").exists()
    assert call("rapipe", "run").count("is up to date") == len(STAGES)
    with (packages / "rapipe/report/page.py").open("a") as source:
        source.write("\n")
    assert "code has changed of report\n" in call("rapipe", "upgrade")
    assert call("rapipe", "run").count("is up to date") == len(STAGES) - 1
    call(sys.executable, "-m", "dvc", "repro", "--quiet", "prefetch")
    assert "corpus" not in call(sys.executable, "-m", "dvc", "status", "prefetch")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """What the wheel asks for is enough: pip installs it, and every stage runs."""
    programs = tmp_path / "environment/bin"
    subprocess.run([sys.executable, "-m", "venv", str(programs.parent)], check=True)
    install = [str(programs / "pip"), "install", "--quiet", str(wheel), "twine"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be installed: {done.stderr.splitlines()[-1]}")
    clean = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    path = os.pathsep.join((str(programs), os.defpath))
    environment = {**clean, "PATH": path, "CUDA_VISIBLE_DEVICES": ""}
    project = tmp_path / "project"
    for command in (
        ("twine", "check", "--strict", str(wheel)),
        ("rapipe", "init", str(project), "--preset", "tiny"),
        ("rapipe", "--help"),
    ):
        subprocess.run(command, env=environment, cwd=tmp_path, check=True)
    subprocess.run(("rapipe", "run"), env=environment, cwd=project, check=True)
    assert (project / "results/index.html").exists()
