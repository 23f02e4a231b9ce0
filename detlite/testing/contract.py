"""What the checks share: a clause of a contract tried with one input, what a broken one says, and inputs."""

import contextlib

import torch

from detlite.errors import shortened

# Three objects that do not touch each other, in an image of (height, width) (96, 128).
OBJECTS = [[10.0, 10.0, 40.0, 34.0], [60.0, 20.0, 92.0, 84.0], [12.0, 50.0, 48.0, 90.0]]
IMAGE_SIZE = (96, 128)


class ContractError(AssertionError):
    """A part does not do what its slot's contract asks: its message says which clause, with what, and what came."""


class Case:
    """One clause of a slot's contract, tried on a part with one input.

    Args:
        registry: the slot's.
        part: what is checked; its class is named in messages.
        clause: what is tried, in words.
        given: the input by name, in the order in which the part takes it.
    """

    def __init__(self, registry, part, clause, **given):
        self.registry, self.part, self.clause, self.given = registry, part, clause, given

    def run(self, function=None):
        """What the part, or another function, returns for the input; it must neither fail nor change its input."""
        before = {name: copied(value) for name, value in self.given.items()}
        with self.watch():
            result = (function or self.part)(*self.given.values())
        for name, value in self.given.items():
            self.require(same(value, before[name]), f"{name} left as it was", value)
        return result

    @contextlib.contextmanager
    def watch(self):
        """Whatever is raised inside is this clause's failure."""
        try:
            yield
        except ContractError:
            raise
        except Exception as error:
            expected = f"nothing raised; see {type(error).__name__} above"
            raise ContractError(self.message(expected, f"{type(error).__name__}: {error}")) from error

    def require(self, condition, expected, got):
        """Go on only if the condition holds.

        Raises:
            ContractError: it does not.
        """
        if not condition:
            raise ContractError(self.message(expected, got if isinstance(got, str) else describe(got)))

    def message(self, expected, got):
        """The text of a failure."""
        name = getattr(self.part, "__name__", type(self.part).__name__)
        given = ", ".join(f"{key} {describe(value)}" for key, value in self.given.items()) or "nothing"
        return (
            f"{name} breaks the contract of {self.registry.slot}: {self.clause}\n"
            f"  given    {given}\n  expected {expected}\n  got      {got}\n"
            f"the contract: {' '.join(self.registry.__doc__.split())}"
        )

    def attributes(self):
        """The attributes that the registry asks for are there."""
        with self.watch():
            self.registry.check_attributes(self.part, type(self.part).__name__)

    def items(self, result, names):
        """A result that is a tuple or list with as many items as names."""
        count = len(result) if isinstance(result, (tuple, list)) else None
        self.require(count == len(names), f"({', '.join(names)})", result)
        return result

    def tensor(self, name, value, shape, dtype=torch.float32, device=None):
        """A finite tensor of that shape, type and device; it is returned."""
        expected = f"{name}: finite {str(dtype).removeprefix('torch.')} {tuple(shape)}"
        fits = isinstance(value, torch.Tensor) and value.shape == torch.Size(shape) and value.dtype == dtype
        self.require(fits and bool(value.isfinite().all()), expected, value)
        if device is not None:
            self.require(value.device.type == torch.device(device).type, f"{name} on {device}", str(value.device))
        return value

    def repeats(self, first, second, what="the same again"):
        """Two results that must be equal to the last bit."""
        self.require(same(first, second), f"{what}: {describe(first)}", second)

    def close(self, first, second, what):
        """Two tensors that must be equal but for rounding."""
        near = first.shape == second.shape and torch.allclose(first, second, rtol=1e-3, atol=1e-3)
        self.require(near, f"{what}: {describe(second)}", first)

    def gradients(self, loss, named):
        """Backward from a loss gives each named tensor that wants one a finite gradient, not all 0, others none."""
        with self.watch():
            loss.backward()
        for name, tensor in named:
            if not tensor.requires_grad:
                self.require(tensor.grad is None, f"no gradient in {name}, which is frozen", "a gradient")
                continue
            self.require(tensor.grad is not None, f"a gradient in {name}", "none")
            self.require(bool(tensor.grad.isfinite().all()), f"a finite gradient in {name}", tensor.grad)
            self.require(bool(tensor.grad.any()), f"a gradient in {name} that is not 0 everywhere", tensor.grad)


def devices():
    """Where parts without weights are checked: the CPU and, where there is one, a GPU."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def objects(device="cpu"):
    """(3, 4): OBJECTS as a tensor."""
    return torch.tensor(OBJECTS, device=device)


def boxes_near_objects(device="cpu", count=40):
    """(3 + count, 4): the objects themselves, then boxes around them at random places, all inside the image."""
    generator = torch.Generator().manual_seed(0)
    near = objects().repeat(-(-count // 3), 1)[:count] + torch.randn(count, 4, generator=generator) * 6
    low, high = near[:, :2].clamp(min=0), near[:, 2:]
    high = torch.maximum(high, low + 4).minimum(torch.tensor([128.0, 96.0]))
    return torch.cat([objects(), torch.cat([low, high], dim=1)]).to(device)


def noise(*shape, device="cpu", seed=0):
    """Normal numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def copied(value):
    """A copy of tensors, also in lists, tuples and dicts; other things as they are."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return type(value)(map(copied, value)) if type(value) in (list, tuple) else value


def same(first, second):
    """Whether two results are equal to the last bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return first.dtype == second.dtype and first.shape == second.shape and bool(torch.equal(first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first is second or bool(first == second)


def describe(value):
    """A value as a message shows it: type and shape of a tensor, and its numbers if they are few.

    >>> describe((torch.tensor([1, 2]), {"boxes": torch.zeros(9, 4)}))
    '(int64 (2,) [1, 2], {boxes: float32 (9, 4)})'
    """
    if isinstance(value, torch.Tensor):
        text = f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
        if value.device.type != "cpu":
            text += f" on {value.device}"
        if value.is_floating_point() and not value.isfinite().all():
            text += ", not finite"
        return f"{text} {value.tolist()}" if 0 < value.numel() <= 12 else text
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {describe(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)) and any(isinstance(item, (torch.Tensor, dict)) for item in value):
        text = ", ".join(map(describe, value[:6])) + (", ..." if len(value) > 6 else "")
        return f"({text})" if isinstance(value, tuple) else f"[{text}]"
    return getattr(value, "__name__", None) or shortened(value)
