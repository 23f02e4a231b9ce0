"""Where weights come from: a file, an https address, or torchvision's name for them."""

import hashlib
import os
import re
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.parse import unquote, urlsplit

import torch
import torchvision
from torchvision.models import get_model_weights, list_models

from detlite.checkpoint.pixel_statistics import Pixels
from detlite.errors import UserError, suggest
from detlite.logs import progress


def find_weights(source):
    """The local file of some weights, fetched if need be, and the pixels they take, where torchvision says so.

    Args:
        source: a file; an ``https://`` address; or ``torchvision/MODEL``, such as ``torchvision/vgg16``, for
            torchvision's default weights of one of its classification nets, ``torchvision/MODEL/SET`` for another set,
            such as ``torchvision/vgg16/IMAGENET1K_FEATURES``.

    Returns:
        path, and :class:`~detlite.checkpoint.pixel_statistics.Pixels` or None.

    Raises:
        UserError: no such name, or the file cannot be fetched; the message says which to put where by hand.
    """
    source = str(source)
    if source.startswith("torchvision/") and not Path(source).exists():
        entry = torchvision_set(source)
        name = entry.url.rpartition("/")[2]
        return _fetch(entry.url, name, source, check=True), torchvision_pixels(entry)
    if "://" in source:
        if not source.startswith("https://"):
            raise UserError(f"{source}: weights are fetched from https:// addresses only")
        name = Path(unquote(urlsplit(source).path)).name
        own = hashlib.sha256(source.encode()).hexdigest()[:12]  # two addresses may end in the same name
        return _fetch(source, f"{own}_{name}", source), _pixels_by_file_name(name)
    path = Path(source).expanduser()
    if not path.exists() and source in list_models(module=torchvision.models):
        raise UserError(f"{source}: no such file of weights; torchvision's are called torchvision/{source}")
    return path, _pixels_by_file_name(path.name)


def torchvision_set(name):
    """torchvision's entry (a member of a WeightsEnum) for a name such as ``torchvision/vgg16``.

    >>> torchvision_set("torchvision/vgg16/IMAGENET1K_FEATURES")
    VGG16_Weights.IMAGENET1K_FEATURES
    """
    _, model, *which = name.split("/")
    models = list_models(module=torchvision.models)
    if model not in models:
        alike = [other for other in models if other[:3] == model[:3]] or [m for m in models if m.startswith("vgg")]
        raise UserError(f"{name}: torchvision has no classification net {model!r}{suggest(model, alike)}")
    sets = get_model_weights(model)
    if not which:
        return sets.DEFAULT
    if "/".join(which) not in sets.__members__:
        raise UserError(f"{name}: {model} has no such set of weights{suggest(which[0], sets.__members__)}")
    return sets[which[0]]


def torchvision_pixels(entry):
    """The pixels that a set of torchvision's weights takes, as its own transforms say; None if they do not.

    >>> torchvision_pixels(torchvision_set("torchvision/vgg16"))
    Pixels(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), channel_order='RGB')
    """
    preset = entry.transforms()
    if not hasattr(preset, "mean"):
        return None
    mean, std = (tuple(round(255 * value, 4) for value in values) for values in (preset.mean, preset.std))
    return Pixels(mean, std, "RGB")


def _pixels_by_file_name(name):
    """torchvision's files end in the first digits of their SHA-256: whoever put one elsewhere still has the set."""
    if re.search(r"-[0-9a-f]{8}\.pth$", name):
        for model in list_models(module=torchvision.models):
            for entry in get_model_weights(model):
                if entry.url.endswith("/" + name):
                    return torchvision_pixels(entry)
    return None


def _fetch(url, name, source, check=False):
    """The address's file in torch's own cache (TORCH_HOME), downloaded whole or not at all.

    ``check``: the name ends in the first digits of the file's SHA-256.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        return path
    aside = path.with_name(f"{name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = _download(url, aside)
        if check and not digest.startswith(re.search(r"-([0-9a-f]+)\.pth$", name)[1]):
            raise OSError(f"what came is another file: its SHA-256 is {digest}")
        os.replace(aside, path)
    except (OSError, ValueError, HTTPException) as error:
        reason = error.reason if type(error) is URLError else error
        raise UserError(
            f"{source}: cannot fetch {url}: {reason}\n"
            f"Without a network: fetch that file elsewhere, put it at {path}, and run the same command again."
        ) from None
    finally:
        aside.unlink(missing_ok=True)
    return path


def _download(url, path):
    """Write what an address holds to a file; returns its SHA-256 in hex."""
    digest = hashlib.sha256()
    with _open(url) as answer, open(path, "wb") as file:
        size = int(answer.headers.get("Content-Length") or 0)
        with progress(total=size or None, unit="B", unit_scale=True, desc=path.name) as bar:
            while chunk := answer.read(1 << 20):
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
        if size and file.tell() != size:
            raise OSError(f"the connection ended after {file.tell()} of {size} bytes")
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


class HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not out of https."""

    def redirect_request(self, request, file, code, message, headers, url):
        """As urllib's own; refuses any address that is not https."""
        if not url.startswith("https://"):
            raise OSError(f"it redirects to {url}, which is not https")
        return super().redirect_request(request, file, code, message, headers, url)


def _open(url):
    request = urllib.request.Request(url, headers={"User-Agent": "detlite"})
    return urllib.request.build_opener(HttpsOnly).open(request, timeout=30)
