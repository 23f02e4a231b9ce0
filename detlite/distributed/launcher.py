"""The launcher of a run's processes, torchrun or :func:`launch`: how they start, meet, and leave notes with it."""

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

TIMEOUT = datetime.timedelta(minutes=30)  # how long a process waits for the others, while one of them scores a test

TAKEN_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # by the launcher, which keeps them


def is_launched():
    """Whether torchrun, or :func:`launch`, started this process as one of several."""
    return dist.is_torchelastic_launched()


def launch(arguments, processes):
    """Start ``python -m detlite.cli`` in several processes on this machine, and wait for them.

    Args:
        arguments: the command line after the program's name.
        processes: how many; each computes with its share of the processor's cores, unless OMP_NUM_THREADS is set.

    Returns:
        the exit status: 0, 1 if a process failed, 128 + n if signal n ended the run.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "300")  # seconds for a last checkpoint after SIGTERM
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what failed is told below
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    handlers = {number: signal.getsignal(number) for number in TAKEN_SIGNALS}
    try:
        elastic_launch(config, sys.executable)("-m", "detlite.cli", *arguments)
    except ChildFailedError as error:
        first, _ = error.get_first_failure()
        for number, failure in sorted(error.failures.items()):
            if failure.exitcode != 1 and (number == first or failure.exitcode != -signal.SIGTERM):
                print(f"error: process {number} of {processes} {_reason(failure.exitcode)}", file=sys.stderr)
        return 1  # what a process that ends with status 1 has to say, it has printed
    except SignalException as error:
        return 128 + error.sigval
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0


def _reason(status):
    """How a process ended, in words."""
    if status > 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name
    return f"was ended by {name}" + (", as when the machine's memory is full" if name == "SIGKILL" else "")


def says_first(message):
    """Whether this is the first process of its run with that message, so that what all find wrong is printed once."""
    return _count_in_launcher(message, 1) <= 1


def remember(fact):
    """Leave a note with the launcher, for the processes that it starts in place of these if one of them dies."""
    _count_in_launcher(fact, 1)


def remembers(fact):
    """Whether processes that these were started in place of (torchrun's --max-restarts) left that note."""
    return _count_in_launcher(fact, 0) > 0


def _count_in_launcher(fact, more):
    """Add to a number that the launcher keeps as long as it runs, and return it; 0 if it keeps none."""
    try:
        store = _launchers_store(datetime.timedelta(seconds=10)) if is_launched() else None
        return store.add(f"fact/{hashlib.sha256(fact.encode()).hexdigest()}", more) if store else 0
    except RuntimeError:  # it is gone
        return 0


def meet(device="cpu"):
    """Make one group of all processes: gloo for tensors on the CPU and, if the model is on GPUs, nccl for theirs.

    Without named backends torch takes the machine's accelerator's alone, which cannot reduce tensors on the CPU.

    They meet at the launcher's store, which still holds what the processes before a restart wrote there
    (https://github.com/pytorch/pytorch/issues/135712), and the machines do not count restarts alike. So process 0
    thinks of a name for this meeting, and answers greetings with it until each is confirmed by one who is alive.
    """
    store, number, processes = _launchers_store(TIMEOUT), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    backends = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    if store is None:
        dist.init_process_group(backends, timeout=TIMEOUT)
        return
    name = uuid.uuid4().hex
    if number:
        store.set(f"greeting/{number}", name)
        name = store.get(f"answer/{name}").decode()  # waits for it
        store.set(f"{name}/{number}", "here")
    deadline = time.monotonic() + TIMEOUT.total_seconds()
    for other in range(1, processes) if not number else ():
        while not store.check([f"{name}/{other}"]):
            if time.monotonic() > deadline:
                raise UserError(f"process {other} of {processes} has not come in {TIMEOUT}")
            if store.check([f"greeting/{other}"]):
                store.set(f"answer/{store.get(f'greeting/{other}').decode()}", name)
            time.sleep(0.05)
    store = dist.PrefixStore(name, store)
    dist.init_process_group(backends, store=store, rank=number, world_size=processes, timeout=TIMEOUT)


def _launchers_store(timeout):
    """The key-value store that the launcher keeps as long as it runs; None if it keeps none."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timeout)
