"""A Python that has imported the package and forks a process per script that it is to run.

So tests run tools in processes of their own, with their own arguments, signals and exit codes, and
spare each of them the seconds that importing PyTorch and Detectron2 takes; and the server that
forks their workers, too. Standard input has a JSON list per line: script, arguments, file for
stdout, file for stderr; standard output gets the exit code as :mod:`subprocess` has it.
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
from collections.abc import Sequence
from multiprocessing import forkserver, util
from pathlib import Path


class WarmPython:
    """The other end of :func:`serve`; starts it when the first script comes."""

    def __init__(self, cwd: Path, env: dict[str, str]) -> None:
        self._start = {"cwd": cwd, "env": env, "text": True, "start_new_session": True}
        self._server: subprocess.Popen | None = None

    def run(self, script: Path, *args: object, timeout: float) -> subprocess.CompletedProcess:
        """Run ``python script *args``.

        Args:
            script: the path.
            args: as strings.
            timeout: seconds, after which it is killed with all that it started.

        Raises:
            subprocess.TimeoutExpired: it took longer.
        """
        if self._server is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            command = [sys.executable, "-W", "ignore", __file__]
            self._server = subprocess.Popen(command, **pipes, **self._start)
        command = [str(script), *map(str, args)]
        with tempfile.TemporaryDirectory() as folder:
            outputs = [Path(folder, name) for name in ("stdout", "stderr")]
            request = [command[0], command[1:], *map(str, outputs)]
            print(json.dumps(request), file=self._server.stdin, flush=True)
            clock = threading.Timer(timeout, self.kill)
            clock.start()
            answer = self._server.stdout.readline()
            clock.cancel()
            if not answer:
                self._server = None
                raise subprocess.TimeoutExpired(command, timeout)
            stdout, stderr = (path.read_text(errors="replace") for path in outputs)
        return subprocess.CompletedProcess(command, int(answer), stdout, stderr)

    def kill(self) -> None:
        """End it, and what it runs."""
        if self._server is not None:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()


def _start_fork_server() -> None:
    """What multiprocessing does when the first worker comes, but with all that is imported here."""
    forkserver.set_forkserver_preload(["wsis_d2.fork_server"])
    start, util.spawnv_passfds = util.spawnv_passfds, _fork
    try:
        forkserver.ensure_running()
    finally:
        util.spawnv_passfds = start


def _fork(_path: str, args: Sequence[str], passfds: Sequence[int]) -> int:
    """In place of a new Python that runs ``-c CODE`` with these file descriptors alone."""
    pid = os.fork()
    if pid == 0:
        kept = sorted({0, 1, 2, *passfds})
        for before, after in zip(kept, [*kept[1:], os.sysconf("SC_OPEN_MAX")]):
            os.closerange(before + 1, after)
        try:
            exec(args[-1], {"__name__": "__main__"})
        finally:
            os._exit(0)
    return pid


def _run(script: str) -> None:
    """Run it and end, but without taking the modules apart, which all forks share."""
    code = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as exit_:
        code = exit_.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve() -> None:
    """Run what standard input asks for, one after the other."""
    import wsis_d2.engine  # noqa: F401  (what the forks share)

    gc.freeze()  # collecting garbage would copy every page to every fork
    for line in sys.stdin:
        script, args, *outputs = json.loads(line)
        pid = os.fork()
        if pid == 0:
            with open(os.devnull) as nothing:
                os.dup2(nothing.fileno(), 0)
            for number, path in enumerate(outputs, 1):
                with open(path, "wb") as file:
                    os.dup2(file.fileno(), number)
            _start_fork_server()
            sys.argv, sys.path[0] = [script, *args], os.path.dirname(script)
            _run(script)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
