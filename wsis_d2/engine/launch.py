"""Start one function in many processes: GPUs with NCCL, CPU processes with gloo, or torchrun.

Detectron2 0.6 launches CUDA processes only; its main branch also starts CPU ones. This has the
signature of both.
"""

from __future__ import annotations

import argparse
import functools
import gc
import logging
import os
import socket
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from detectron2.engine import default_argument_parser
from detectron2.utils import comm

from ..errors import UserError
from ..parallel import create_patient_group, forget_patient_group, synchronize_patiently
from ..processes import run_processes
from .setup import configured_device

logger = logging.getLogger(__name__)

DEFAULT_TIMEOUT = timedelta(minutes=30)


def launch(
    main_func: Callable,
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
    device: str = "cuda",
) -> None:
    """Run ``main_func(*args)`` in ``num_gpus_per_machine`` processes on each machine.

    Args:
        main_func: a function that can be pickled (defined at the top of a module).
        num_gpus_per_machine: GPUs, or gloo processes where ``device`` is another one or there is no
            CUDA device, which is said in a warning.
        num_machines: machines in the job; each of them must call this function.
        machine_rank: the rank of this machine.
        dist_url: ``tcp://host:port`` of rank 0, or "auto" for a free local port.
        args: arguments of ``main_func``.
        timeout: how long a collective operation waits for the other processes;
            :func:`wsis_d2.parallel.synchronize_patiently`, and with it the end, does not give up.
        device: what the processes compute on, as ``torch.device`` takes it.

    Under ``torchrun`` (which has started the processes already) the numbers and the address are
    ignored and ``main_func`` runs in this process.

    Raises:
        UserError: what a worker raised, numbers that are none of a job, or a request for more GPUs
            than the machine has.
    """
    check_job_size(num_gpus_per_machine, num_machines, machine_rank)
    if dist.is_torchelastic_launched():
        _init_torchrun(device, timeout)
        _run_and_leave(main_func, args)
        return
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    on_gpus = _on_gpus(device, num_gpus_per_machine)
    if on_gpus and num_gpus_per_machine > torch.cuda.device_count():
        raise UserError(
            f"--num-gpus is {num_gpus_per_machine}, but this machine has "
            f"{torch.cuda.device_count()} GPU(s): ask for no more than that"
        )
    if dist_url is None or dist_url == "auto":
        if num_machines > 1:
            raise UserError(
                "a job of several machines needs --dist-url tcp://HOST:PORT of the first machine"
            )
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    worker_args = (main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args)
    run_processes(_distributed_worker, num_gpus_per_machine, (*worker_args, timeout, on_gpus))


def check_job_size(num_gpus: int, num_machines: int = 1, machine_rank: int = 0) -> None:
    """See :func:`launch`.

    Raises:
        UserError: a job cannot have these numbers.
    """
    for option, number in (("--num-gpus", num_gpus), ("--num-machines", num_machines)):
        if number < 1:
            raise UserError(f"{option} is {number}: give 1 or more (1 runs on a CPU too)")
    if not 0 <= machine_rank < num_machines:
        raise UserError(
            f"--machine-rank is {machine_rank}, but the ranks of --num-machines {num_machines} are "
            f"0 to {num_machines - 1}"
        )


def launch_from_args(
    main_func: Callable,
    args: argparse.Namespace,
    device_of: Callable[[str, list[str]], str] = configured_device,
) -> None:
    """Run ``main_func(args)`` as the arguments of Detectron2's parser ask for.

    Args:
        main_func: see :func:`launch`.
        args: of Detectron2's parser.
        device_of: the device of a config file and its options.
    """
    launch(
        main_func,
        args.num_gpus,
        args.num_machines,
        args.machine_rank,
        dist_url=free_address(args.dist_url, args.num_machines),
        args=(args,),
        device=device_of(args.config_file, args.opts),
    )


def free_address(dist_url: str | None, num_machines: int) -> str | None:
    """``--dist-url`` of a job, where nobody gave one "auto".

    Detectron2's default is one port per user, so that a second job on the machine would find it
    taken; a job of several machines keeps it.
    """
    is_default = dist_url == default_argument_parser().get_default("dist_url")
    return "auto" if num_machines == 1 and is_default else dist_url


def run_in_fresh_process(main_func: Callable, args: tuple = ()) -> None:
    """Run ``main_func(*args)`` in one new process, whose memory, seeds and loggers are its own."""
    run_processes(_plain_worker, 1, (main_func, args))


def _plain_worker(_: int, main_func: Callable, args: tuple) -> None:
    main_func(*args)


def _distributed_worker(
    local_rank: int,
    main_func: Callable,
    world_size: int,
    num_processes: int,
    machine_rank: int,
    dist_url: str,
    args: tuple,
    timeout: timedelta,
    on_gpus: bool,
) -> None:
    _init_process_group(
        local_rank,
        num_processes,
        timeout,
        on_gpus,
        init_method=dist_url,
        world_size=world_size,
        rank=machine_rank * num_processes + local_rank,
    )
    _run_and_leave(main_func, args)


def _init_torchrun(device: str, timeout: timedelta) -> None:
    local_rank, num_processes = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    on_gpus = _on_gpus(device, num_processes, warn=local_rank == 0)
    _init_process_group(local_rank, num_processes, timeout, on_gpus, init_method="env://")


def _on_gpus(device: str, num_processes: int, warn: bool = True) -> bool:
    """Whether the processes of this machine have a GPU each; a warning where they only should."""
    if torch.device(device).type != "cuda":
        return False
    if torch.cuda.is_available():
        return True
    if warn:
        _warn_of_missing_gpus(num_processes)
    return False


@functools.cache  # once for all stages of a recipe
def _warn_of_missing_gpus(num_processes: int) -> None:
    logger.warning(
        f"PyTorch finds no CUDA device, so {num_processes} processes compute on this machine's CPU "
        "(gloo): mend the driver or PyTorch's build, or set MODEL.DEVICE to cpu if that is meant"
    )


def _init_process_group(
    local_rank: int, num_processes: int, timeout: timedelta, on_gpus: bool, **kwargs
) -> None:
    if on_gpus:
        torch.cuda.set_device(local_rank)
    # Without this every process takes all cores and they fight for them.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // num_processes))
    dist.init_process_group("nccl" if on_gpus else "gloo", timeout=timeout, **kwargs)
    _create_local_process_group(num_processes)
    create_patient_group()
    comm.synchronize()


def _create_local_process_group(num_processes: int) -> None:
    """The group of this machine's ranks, which `comm.get_local_rank` needs."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(num_processes)
        return
    # 0.6 keeps the group in a module variable that only its own launch sets.
    for start in range(0, dist.get_world_size(), num_processes):
        ranks = list(range(start, start + num_processes))
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            comm._LOCAL_PROCESS_GROUP = group


def _run_and_leave(main_func: Callable, args: tuple) -> None:
    """Run ``main_func`` in a process of the group, which ends with it."""
    try:
        main_func(*args)
    except BaseException:
        # No waiting here: the others are not at this point. And NCCL's own end may wait for what
        # they never join; the end of the process breaks its connections as well.
        if dist.get_backend() == dist.Backend.GLOO:
            leave_process_group()
        raise
    # The first to go would break connections that the others still use.
    synchronize_patiently()
    leave_process_group()


def leave_process_group() -> None:
    """Destroy the process group with all its threads.

    One that is still running when the interpreter ends aborts the process. So nothing may keep a
    group: not Detectron2's references, nor a trainer that only the garbage collector ends.
    """
    comm._LOCAL_PROCESS_GROUP = None
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group.cache_clear()
    comm._get_global_gloo_group.cache_clear()
    forget_patient_group()
    gc.collect()
    dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
