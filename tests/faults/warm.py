"""A process that has imported all that stages need, and forks to run one at once.

Most of a stage's time is imports. They are done once: `ProcessGroup.start` copies the process
(`fork`), and the copy goes on as `python -m stages.NAME` would.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from tests.faults import dying
from tests.faults.clone import BIN, ROOT

IMPORTED = (
    *("check", "corpus", "pretrain", "embed", "prefetch", "audit", "initialise"),
    *("train", "evaluate", "report", "running.check_names", "running.stage"),
)


class ProcessGroup:
    """Starts stages; one at a time."""

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

    def start(self, home: Path, output: Path, command: list[str], env: dict[str, str]) -> int:
        """Start `python -m stages.NAME ARGUMENTS...` in a new process group; returns its id."""
        facts = {"home": str(home), "output": str(output), "command": command, "env": env}
        assert self.process.stdin
        print(json.dumps(facts), file=self.process.stdin, flush=True)
        return int(self._read_line())

    def wait(self) -> int:
        """The exit code of what was started last; minus the signal that ended it."""
        return int(self._read_line())

    def close(self) -> None:
        """End it."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def _read_line(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that starts stages ended: {self.process.wait()}")
        return line


def main() -> None:
    """Start what each line of stdin asks for; say its id, and then its exit code."""
    for name in IMPORTED:
        import_module(f"rapipe.pipeline.{name}")
    gc.freeze()  # else each copy would touch, and so copy, all of the memory
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            become(**request)
            return
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os._exit(0)  # nothing to tidy up, and some libraries grumble when they are


def become(home: str, output: str, command: list[str], env: dict[str, str]) -> None:
    """Go on as a stage."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    os.chdir(home)
    out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in enumerate((nothing, out, out)):
        os.dup2(source, target)
    os.environ.update(env, PYTHONPATH=home)
    tempfile.tempdir = None  # it was chosen for another environment
    sys.path[0] = home
    sys.argv = command[2:]
    dying.install()
    runpy.run_module(command[2], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
