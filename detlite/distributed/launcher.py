"""Start the processes of a run, let them meet, and leave notes for later ones.

The launcher (torchrun or :func:`launch`) starts the processes, and starts all anew if one dies. It keeps a key-value
store, which outlives the processes of one start.
"""

import datetime
import hashlib
import logging
import os
import signal
import sys
import time
import uuid

import torch.distributed as dist

from detlite.errors import UserError

TIMEOUT = datetime.timedelta(minutes=30)  # limit for waiting, for example while the main process scores a test
# Where none is named, torch takes the GPUs' backend alone, which cannot reduce tensors on the CPU.
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
TAKEN_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # torch replaces their handlers


def is_launched():
    """Return whether torchrun or :func:`launch` started this process."""
    return dist.is_torchelastic_launched()


def usable_cores():
    """Return the number of cores that this process may use. A batch system may allow fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS and Windows do not say which are allowed


def python_arguments(*arguments):
    """Return the arguments with which Python runs ``detlite`` in another process.

    Such a process must not import modules from the current folder, which may hold other people's files.
    """
    code = "import sys; sys.path[:] = filter(None, sys.path); from detlite.cli import main; sys.exit(main())"
    safe_path = ["-P"] if sys.version_info >= (3, 11) else []  # also for the processes that it starts
    return [*safe_path, "-c", code, *arguments]


def launch(arguments, processes):
    """Run ``detlite`` in several processes on this machine.

    Args:
        arguments: the command line after the program's name.
        processes: their number. The usable cores are divided among them, unless OMP_NUM_THREADS is set.

    Returns:
        the exit status: 0, 1 if a process failed, 128 + n if signal n ended the run.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "300")  # seconds for a last checkpoint after SIGTERM
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # failures are printed below
    one_machine = {"min_nodes": 1, "max_nodes": 1, "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    config = LaunchConfig(**one_machine, nproc_per_node=processes, run_id=str(uuid.uuid4()), max_restarts=0)
    handlers = {number: signal.getsignal(number) for number in TAKEN_SIGNALS}
    try:
        elastic_launch(config, sys.executable)(*python_arguments(*arguments))
    except ChildFailedError as error:
        first, _ = error.get_first_failure()
        for number, failure in sorted(error.failures.items()):
            # A process with status 1 has printed why. After the first failure the launcher ends the others by SIGTERM.
            if failure.exitcode != 1 and (number == first or failure.exitcode != -signal.SIGTERM):
                print(f"error: process {number} of {processes} {_reason(failure.exitcode)}", file=sys.stderr)
        return 1
    except SignalException as error:
        return 128 + error.sigval
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0


def _reason(status):
    """Return in words how a process ended."""
    if status > 0:
        return f"ended with status {status}"
    if status == -signal.SIGKILL:
        return "was ended by SIGKILL, as when the machine's memory is full"
    return f"was ended by {signal.Signals(-status).name}"


def says_first(message):
    """Return whether this process is the first of its run with a message."""
    return _count_in_launcher(message, 1) <= 1


def remember(fact):
    """Leave a note in the launcher for the processes of later starts."""
    _count_in_launcher(fact, 1)


def remembers(fact):
    """Return whether a process of an earlier start left that note (--max-restarts)."""
    return _count_in_launcher(fact, 0) > 0


def _count_in_launcher(fact, more):
    """Add to a fact's count in the launcher's store, and return it, or 0 without one."""
    try:
        store = _launchers_store(datetime.timedelta(seconds=10))
        return store.add(f"fact/{hashlib.sha256(fact.encode()).hexdigest()}", more) if store else 0
    except RuntimeError:  # the launcher has ended
        return 0


def meet(device="cpu"):
    """Make one group of all processes, or raise a UserError if one is missing."""
    store = _launchers_store(TIMEOUT)
    if store is None:
        dist.init_process_group(BACKENDS[device], timeout=TIMEOUT)
        return
    number, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.PrefixStore(_agree_on_prefix(store, number, processes), store)
    dist.init_process_group(BACKENDS[device], store=store, rank=number, world_size=processes, timeout=TIMEOUT)


def _agree_on_prefix(store, number, processes):
    """Return a prefix of keys that belongs to this start of the processes alone.

    The launcher's store still holds the keys of earlier starts (https://github.com/pytorch/pytorch/issues/135712), and
    the machines count restarts differently, so that a count cannot tell the starts apart. Process 0 therefore creates a
    unique prefix for this start and sends it to each process until that process has confirmed it.
    """
    if number:
        # The token is new in each start, so an answer to it is never stale.
        token = uuid.uuid4().hex
        store.set(f"token/{number}", token)
        prefix = store.get(f"prefix for {token}").decode()  # waits until process 0 has set it
        store.set(f"{prefix}/{number}", "confirmed")
        return prefix

    prefix = uuid.uuid4().hex
    deadline = time.monotonic() + TIMEOUT.total_seconds()
    for other in range(1, processes):
        while not store.check([f"{prefix}/{other}"]):
            if time.monotonic() > deadline:
                raise UserError(f"process {other} of {processes} has not come within {TIMEOUT}")
            # A token of an earlier start does no harm: the loop answers until the new one is confirmed.
            if store.check([f"token/{other}"]):
                token = store.get(f"token/{other}").decode()
                store.set(f"prefix for {token}", prefix)
            time.sleep(0.05)
    return prefix


def _launchers_store(timeout):
    """Return a client of the launcher's key-value store, or None if there is none."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timeout)
