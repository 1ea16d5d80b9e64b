"""A process that has imported all that is killed, and forks to run one at once.

Most of the time of a small stage is imports. They are done once: `ProcessGroup.start` copies the
process (`fork`), and the copy goes on as `python -m stages.NAME` or `rapipe ...` would.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from tests.faults import dying
from tests.faults.clone import BIN, ROOT

IMPORTED = ("rapipe.cli", "rapipe.pipeline.running.stage", "rapipe.pipeline.running.exit_codes")
"""More is learned from what runs (`ProcessGroup.learn`)."""
REPEATED = ("__main__", "__mp_main__", "stages", "tests")
"""Packages that each process imports from its own checkout."""


class ProcessGroup:
    """Starts stages and commands; one at a time."""

    def __init__(self) -> None:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [str(BIN / "python"), "-m", "tests.faults.warm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
            cwd=ROOT,
        )
        self._read_line()

    def start(
        self,
        home: Path,
        output: Path,
        command: Sequence[str],
        env: dict[str, str],
        modules: Path | None = None,
    ) -> int:
        """Start a command in a new process group; returns its id.

        Args:
            home: the checkout to run it in.
            output: a file that gets what it prints.
            command: `python -m MODULE ARGUMENTS...`, or `rapipe ARGUMENTS...`.
            modules: a file that gets the names of what it has imported, for `learn`.
        """
        facts = {"home": str(home), "output": str(output), "command": list(command), "env": env}
        return int(self._ask({**facts, "modules": str(modules or "")}))

    def wait(self) -> int:
        """The exit code of what was started last; minus the signal that ended it."""
        return int(self._read_line())

    def learn(self, names: Sequence[str]) -> None:
        """Import these modules, for all that is started later."""
        self._ask({"names": list(names)})

    def close(self) -> None:
        """End it."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def _ask(self, request: dict[str, object]) -> str:
        assert self.process.stdin
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self._read_line()

    def _read_line(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that starts stages ended: {self.process.wait()}")
        return line


def main() -> None:
    """Start what each line of stdin asks for; print its id, and then its exit code."""
    warnings.filterwarnings("ignore", "lancedb fork support")  # the parent never uses it
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a copy may get it before it has begun
    import_all(IMPORTED)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "names" in request:
            import_all(request["names"])
            print("learned", flush=True)
            continue
        child = os.fork()
        if not child:
            end(exit_code(request))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os._exit(0)  # nothing to tidy up, and some libraries grumble when they are


def exit_code(request: dict[str, Any]) -> int:
    """Go on as a stage or a command, to the end; its exit code."""
    try:
        become(**request)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(bool(error.code))
    except BaseException as error:
        traceback.print_exc()
        if isinstance(error, KeyboardInterrupt):  # as Python ends then
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        return 1
    return 0


def end(code: int) -> NoReturn:
    """End as Python does, but leave the modules: to take thousands down takes half a second."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def import_all(names: Sequence[str]) -> None:
    """Import what can be imported of these."""
    for name in names:
        if name not in sys.modules and name.partition(".")[0] not in REPEATED:
            with suppress(Exception):  # some modules are never imported by this name
                import_module(name)
    gc.collect()
    gc.freeze()  # else each copy would touch, and so copy, all of the memory


def become(home: str, output: str, command: list[str], env: dict[str, str], modules: str) -> None:
    """Go on as a stage or a command."""
    os.setsid()
    os.chdir(home)
    out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in enumerate((nothing, out, out)):
        os.dup2(source, target)
    os.environ.update(env, PYTHONPATH=home)
    tempfile.tempdir = None  # it was chosen for another environment
    sys.path[0] = home
    if modules:
        atexit.register(lambda: Path(modules).write_text("\n".join(sys.modules)))
    if command[0] == "rapipe":
        from rapipe.cli import main as run

        sys.argv = command
        interruptible()
        run()
    else:
        sys.argv = command[2:]
        interruptible()
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)


def interruptible() -> None:
    """From here on it is no longer the harness that is hit."""
    dying.install("stage")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored


if __name__ == "__main__":
    main()
