"""Work that the first machine of a job does alone, while the others wait for it.

No process group spans the machines then, only the file system that they share: the first machine
leaves signs of life in a file of the output folder, and the others read it.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import UserError, one_sentence
from .files import read_json, write_json

#: In the output folder: ``{"run": id, "state": "running" | "failed" | "done", "beat": number}``.
SIGNS_FILE = "first_machine.json"
#: Seconds between two signs of life, and without one until the others give up: file systems of
#: several machines may show a change a minute late.
BEAT_SECONDS = 15.0
PATIENCE_SECONDS = 600.0


@contextmanager
def signs_of_life(output: str, beat_seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """While the block runs, on the first machine: tell the others so, and then how it ended.

    Args:
        output: the output folder, on a file system that all machines share.
        beat_seconds: time between two signs.
    """
    path, run = os.path.join(output, SIGNS_FILE), uuid.uuid4().hex
    ended = threading.Event()

    def beat() -> None:
        number = 0
        while True:
            write_json(path, {"run": run, "state": "running", "beat": number})
            number += 1
            if ended.wait(beat_seconds):
                return

    def end(state: str, message: str = "") -> None:
        ended.set()
        thread.join()
        write_json(path, {"run": run, "state": state, "message": message})

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    except BaseException as error:
        is_sentence = isinstance(error, UserError)
        end("failed", one_sentence(error) if is_sentence else type(error).__name__)
        raise
    end("done")


class FirstMachine:
    """The first machine as the others see it.

    Args:
        output: as in :func:`signs_of_life`. What its file says now may be of an earlier run.
        patience: seconds without a sign of life until the first machine counts as gone.
        poll_seconds: time between two looks.
    """

    def __init__(self, output: str, patience: float = PATIENCE_SECONDS, poll_seconds: float = 2.0):
        self._path = os.path.join(output, SIGNS_FILE)
        self._patience = patience
        self._poll_seconds = poll_seconds
        self._last = self._read()
        self._seen_alive = False

    def wait_for(self, is_done: Callable[[], bool], what: str) -> None:
        """Wait until ``is_done()``.

        Args:
            is_done: whether the work is there, looked up on the shared file system.
            what: names it: "stage 'seeds'".

        Raises:
            UserError: the first machine failed, is gone, or has ended without this work.
        """
        last_sign = time.monotonic()
        while not is_done():
            signs = self._read()
            if signs != self._last:
                self._last, self._seen_alive, last_sign = signs, True, time.monotonic()
            state = signs.get("state") if self._seen_alive else None
            if state == "failed":
                raise UserError(
                    f"the first machine failed before {what} was done ({signs.get('message')}): "
                    "see its output, then start all machines again"
                )
            # Written after all of its work; a look before that may have missed the last stage.
            if state == "done" and not is_done():
                raise UserError(
                    f"the first machine has ended, but {what} is not as this machine expects it: "
                    "give all machines the same recipe, options, code and data"
                )
            if time.monotonic() - last_sign > self._patience:
                raise UserError(
                    f"no sign of life from the first machine in {self._patience:.0f} s while "
                    f"waiting for {what}: start it (--machine-rank 0) with the same --output, or "
                    "see why it ended"
                )
            time.sleep(self._poll_seconds)

    def _read(self) -> dict:
        return read_json(self._path)
