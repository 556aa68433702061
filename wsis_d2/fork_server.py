"""Imported by the server that forks our workers, and with it the package: so a worker need not.

Importing PyTorch, Detectron2 and this package takes a process several seconds and some hundred
megabytes, which forks of one process share. The server only imports: it has no threads, no CUDA
context and no random numbers that a fork could inherit in a bad state. Which workers are its forks
says :func:`wsis_d2.processes.start_method`.
"""

import gc
import os
import signal

_SERVER = os.getpid()


def _heed_sigterm() -> None:
    if os.getppid() == _SERVER:  # a worker, not a worker's own fork, which inherits from that
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


# A signal to all processes of a job must not end the server, by which the job's first process
# knows that workers live: they may be writing a checkpoint.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.register_at_fork(after_in_child=_heed_sigterm)

# Workers would copy every page of what they share to look for garbage in it.
gc.freeze()
