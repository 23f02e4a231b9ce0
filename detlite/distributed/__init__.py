"""One run in several processes, on one machine or many, started by PyTorch's own launcher (torchrun).

Every process reads the same config and does the same work on its share of the images; what only one may do, such as
writing files, the main process does, the one of rank 0. In a run of one process everything here does nothing.
"""

import contextlib
import ctypes
import functools
import gc
import importlib
import os
import traceback

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from detlite.distributed.launcher import is_launched, meet
from detlite.distributed.signals import StoppedBySignal
from detlite.errors import UserError


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
        importlib.import_module("torch.distributed.nn")  # once there is a group, its functions' defaults would keep it
        meet(_take_device(cfg.MODEL.DEVICE, int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])))
        try:
            result = run(cfg, *args, **kwargs)
        except (SystemExit, StoppedBySignal) as stop:  # all processes stop after the same step
            traceback.clear_frames(stop.__traceback__)
            _destroy_group()
            raise
        except BaseException as error:
            # The group's end waits for answers, which the others may never give: it must not come, not even at exit.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(dist.group.WORLD))
            if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
                raise UserError(f"process {rank()} of {count()} lost another one: {error}") from error
            raise
        _destroy_group()
        return result

    return joined


def _destroy_group():
    """End the group's threads: one that asks for the interpreter while that is taken apart would abort the process."""
    gc.collect()  # what still holds the group, such as the trainer
    dist.destroy_process_group()


def _take_device(device, number, processes):
    """Return "cuda" if the model runs on a GPU, after making one of this machine's this process's; else "cpu"."""
    if device.startswith("cuda:"):
        if processes > 1:
            raise UserError(f"MODEL.DEVICE: {device} is one GPU, and there are {processes} processes; write cuda")
        return "cuda"
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        if processes > torch.cuda.device_count():
            raise UserError(
                f"{processes} processes on a machine with {torch.cuda.device_count()} GPUs: start as many processes as "
                "GPUs, or set MODEL.DEVICE cpu"
            )
        torch.cuda.set_device(number)
        return "cuda"
    return "cpu"


def parallel(model):
    """The model such that a backward pass averages the gradients over the processes; the model itself if there is one.

    All processes start with the main one's weights.
    """
    return DistributedDataParallel(model) if count() > 1 else model


def check_trained(model):
    """After a backward pass: refuse parameters that took no part in it, as other processes would wait for them.

    Raises:
        UserError: with their names.
    """
    idle = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    if idle and count() > 1:
        raise UserError(
            f"{', '.join(idle[:5])}{' and more' if len(idle) > 5 else ''}: no loss depends on these parameters, and in "
            "a run of several processes one must on all: freeze them (requires_grad_(False)) or leave them out"
        )


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


def wait_for_all():
    """Go on when every process has come here."""
    anywhere(False)


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
