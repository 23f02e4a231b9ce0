"""One run in several processes, on one machine or many, started by PyTorch's own launcher (torchrun).

Every process reads the same config and does the same work on its share of the images; what only one may do, such as
writing files, the main process does, the one of rank 0. In a run of one process everything here does nothing.
"""

import contextlib
import datetime
import functools
import hashlib
import logging
import os
import signal
import sys
import time
import uuid

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from detlite.errors import UserError

TIMEOUT = datetime.timedelta(minutes=30)  # how long a process waits for the others, while one of them scores a test


def is_launched():
    """Whether torchrun, or :func:`launch`, started this process as one of several."""
    return dist.is_torchelastic_launched()


def rank():
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count():
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share():
    """This process's part of what all share: its number and how many there are."""
    return rank(), count()


def is_main():
    """Whether this is the process that writes."""
    return rank() == 0


def in_every_process(run):
    """Decorate a run, a function of a config and more, so that it joins the other processes that were launched.

    Raises:
        UserError: MODEL.DEVICE cannot serve that many processes.
    """

    @functools.wraps(run)
    def joined(cfg, *args, **kwargs):
        if not is_launched() or dist.is_initialized():
            return run(cfg, *args, **kwargs)
        _take_gpu(cfg.MODEL.DEVICE, int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]))
        _meet()
        try:
            result = run(cfg, *args, **kwargs)
        except RuntimeError as error:
            if isinstance(error, dist.DistError) or "gloo" in str(error):
                raise UserError(f"process {rank()} of {count()} lost another one: {error}") from error
            raise
        dist.destroy_process_group()  # not after an error: the others may be waiting for this process
        return result

    return joined


def _meet():
    """Make one group of all processes: gloo for what is on the CPU, nccl for what is on GPUs.

    They meet at the launcher's store, which still holds what the processes before a restart wrote there
    (https://github.com/pytorch/pytorch/issues/135712), and the machines do not count restarts alike. So process 0
    thinks of a name for this meeting, and answers greetings with it until each is confirmed by one who is alive.
    """
    store, number, processes = _launchers_store(), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if store is None:
        dist.init_process_group(timeout=TIMEOUT)
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
    dist.init_process_group(store=store, rank=number, world_size=processes, timeout=TIMEOUT)


def _launchers_store():
    """The key-value store that the launcher keeps as long as it runs; None if it keeps none."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=TIMEOUT)


def _take_gpu(device, number, processes):
    """Make one GPU of this machine the process's own, if it is to run on a GPU at all."""
    if device.startswith("cuda:") and processes > 1:
        raise UserError(f"MODEL.DEVICE: {device} is one GPU, and there are {processes} processes; write cuda")
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        if processes > torch.cuda.device_count():
            raise UserError(
                f"{processes} processes on a machine with {torch.cuda.device_count()} GPUs: start as many processes as "
                "GPUs, or set MODEL.DEVICE cpu"
            )
        torch.cuda.set_device(number)


def parallel(model):
    """The model such that a backward pass averages the gradients over the processes; the model itself if there is one.

    All processes start with the main one's weights.
    """
    return DistributedDataParallel(model) if count() > 1 else model


def averaging(model, enabled):
    """A context for a pass of :func:`parallel`'s model; if not enabled, a later pass averages its gradients too."""
    if enabled or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()


def mean(values):
    """The mean over the processes of each number in a dict, which has the same names everywhere."""
    if count() == 1:
        return values
    numbers = torch.tensor([*values.values()], dtype=torch.float64)
    dist.all_reduce(numbers)
    return dict(zip(values, (numbers / count()).tolist(), strict=True))


def total(number):
    """The sum of a whole number over the processes."""
    return round(mean({"number": number})["number"] * count())


def anywhere(flag):
    """Whether a flag is set in any process."""
    return mean({"flag": float(flag)})["flag"] > 0


def same_everywhere(value):
    """Whether all processes have the same value here; none goes on before all have come here."""
    values = [value] * count()
    if count() > 1:
        dist.all_gather_object(values, value)
    return all(other == value for other in values)


def gather(value):
    """The values of all processes, in their order, in the main one; None in the others."""
    if count() == 1:
        return [value]
    values = [None] * count() if is_main() else None
    dist.gather_object(value, values)
    return values


def from_main(function):
    """What a function, called in the main process alone, returns there: in every process."""
    if count() == 1:
        return function()
    value = [function() if is_main() else None]
    dist.broadcast_object_list(value)
    return value[0]


def share_buffers(model):
    """Give every process the main one's buffers, such as BatchNorm's statistics, which differ from batch to batch."""
    if count() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


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
    store = _launchers_store() if is_launched() else None
    return store.add(f"fact/{hashlib.sha256(fact.encode()).hexdigest()}", more) if store else 0
