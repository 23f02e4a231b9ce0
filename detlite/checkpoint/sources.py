"""Find weights by a file, an https address, or torchvision's name for them."""

import hashlib
import os
import re
import threading
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.parse import unquote, urlsplit

import torch
import torchvision
from torchvision.models import get_model_weights, list_models

from detlite.checkpoint.files import load_checkpoint, refuse_pickle
from detlite.checkpoint.pixel_statistics import Pixels
from detlite.errors import UserError, suggest
from detlite.files import user_path
from detlite.logs import progress
from detlite.writing import open_atomically

PATIENCE = 60  # seconds before the speed of a download counts
MIN_SPEED = 10_000  # bytes per second, on average
LONGEST = 6 * 3600  # seconds
LARGEST = 32 * 2**30  # bytes
DETECTORS = list_models(torchvision.models.detection, include="fasterrcnn*")


def find_weights(source, fetch_again=False):
    """Return the local file of weights, downloaded if it is missing, and the Pixels that torchvision states, or None.

    Args:
        source: a file; an ``https://`` address; or ``torchvision/MODEL``, such as ``torchvision/vgg16``, for the
            default weights of a torchvision classification net or Faster R-CNN. ``torchvision/MODEL/SET`` selects other
            weights, such as ``torchvision/vgg16/IMAGENET1K_FEATURES``.
        fetch_again: whether to replace a downloaded file, for example because it is damaged.

    Raises:
        UserError: the name is unknown, or the file cannot be downloaded. The message says where to put it by hand.
    """
    # A set of weights of torchvision; a local folder of this name has precedence.
    source = str(source)
    if source.startswith("torchvision/") and not Path(source).exists():
        entry = torchvision_set(source)
        name = entry.url.rpartition("/")[2]
        return _fetch(entry.url, name, source, fetch_again, check=True), torchvision_pixels(entry)

    # An address.
    if "://" in source:
        if not source.startswith("https://"):
            raise UserError(f"{source}: weights are fetched from https:// addresses only")
        try:
            name = Path(unquote(urlsplit(source).path)).name
        except ValueError as error:
            raise UserError(f"{source}: not an address: {error}") from None
        name = re.sub(r"[^\w.-]", "_", name)[-100:]
        if name.endswith(".pkl"):
            refuse_pickle(source, name)
        unique = hashlib.sha256(source.encode()).hexdigest()[:12]  # two addresses may end in the same name
        return _fetch(source, f"{unique}_{name}", source, fetch_again), _pixels_by_file_name(name)

    # A file, which may be missing; reading it reports that.
    path = user_path(source)
    if not os.path.exists(path) and source in [*list_models(torchvision.models), *DETECTORS]:
        raise UserError(f"{source}: no such file of weights; torchvision's are called torchvision/{source}")
    return path, _pixels_by_file_name(path.name)


def torchvision_set(name):
    """Return torchvision's WeightsEnum entry for a name like ``torchvision/vgg16``.

    >>> torchvision_set("torchvision/vgg16/IMAGENET1K_FEATURES")
    VGG16_Weights.IMAGENET1K_FEATURES
    """
    _, model, *weights = name.split("/")
    models = [*list_models(torchvision.models), *DETECTORS]
    if model not in models:
        similar = [other for other in models if other.startswith(model[:3])] or list_models(torchvision.models, "vgg*")
        raise UserError(f"{name}: torchvision has no classifier or Faster R-CNN {model!r}{suggest(model, similar)}")
    sets = get_model_weights(model)
    if not weights:
        return sets.DEFAULT
    if "/".join(weights) not in sets.__members__:
        raise UserError(f"{name}: {model} has no such set of weights{suggest(weights[0], sets.__members__)}")
    return sets[weights[0]]


def torchvision_pixels(entry):
    """Return the pixel statistics in the transforms of torchvision's entry, or None.

    >>> torchvision_pixels(torchvision_set("torchvision/vgg16"))
    Pixels(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), channel_order='RGB')
    """
    preset = entry.transforms()
    if not hasattr(preset, "mean"):
        return None
    mean = tuple(round(255 * value, 4) for value in preset.mean)
    std = tuple(round(255 * value, 4) for value in preset.std)
    return Pixels(mean, std, "RGB")


def _pixels_by_file_name(name):
    """Return the pixel statistics of torchvision's file of that name, or None."""
    # Digits of the SHA-256 in the name identify the file.
    if re.search(r"-[0-9a-f]{8}\.pth$", name):
        for model in list_models(torchvision.models):
            for entry in get_model_weights(model):
                if entry.url.endswith("/" + name):
                    return torchvision_pixels(entry)
    return None


def _fetch(url, name, source, fetch_again, check=False):
    """Return a file in torch's cache (TORCH_HOME), downloaded if it is missing. Only readable weights are kept."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file() and not fetch_again:
        return path
    hash_prefix = re.search(r"-([0-9a-f]+)\.pth$", name)[1] if check else ""  # torchvision's names end in it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_atomically(path) as file:  # other processes may fetch the same file
            _download(url, file, name, hash_prefix)
            file.flush()
            load_checkpoint(file.name, path.suffix)
    except (OSError, ValueError, HTTPException) as error:
        reason = error.reason if type(error) is URLError else error
        remedy = f"Without a network, fetch the file on another computer, put it at {path} and run the command again."
        raise UserError(f"{source}: cannot fetch {url}: {reason}\n{remedy}") from None
    return path


def _download(url, file, name, hash_prefix):
    """Copy an address's content to an open file in a thread, and give up if it is too slow or too large.

    A thread, because a server may send a byte per second from the first line of its headers on.
    """
    failures = []

    def copy():
        try:
            _copy(url, file, name, hash_prefix)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=copy, daemon=True)  # ends once its file is closed
    begin = time.monotonic()
    thread.start()
    while thread.is_alive():
        thread.join(PATIENCE / 60)
        seconds = time.monotonic() - begin
        is_slow = seconds > PATIENCE and file.tell() < MIN_SPEED * seconds
        if thread.is_alive() and (is_slow or seconds > LONGEST or file.tell() > LARGEST):
            raise OSError(f"given up after {file.tell():,} bytes in {seconds:.0f} s, too slow or too large")
    if failures:
        raise failures[0]


def _copy(url, file, name, hash_prefix):
    """Copy an address's content to an open file, and check its length and SHA-256."""
    digest = hashlib.sha256()
    with _open(url) as answer:
        size = int(answer.headers.get("Content-Length") or 0)
        with progress(total=size or None, unit="B", unit_scale=True, desc=name) as bar:
            while chunk := answer.read1(1 << 20):
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
    if size and file.tell() != size:
        raise OSError(f"the connection ended after {file.tell()} of {size} bytes")
    if not digest.hexdigest().startswith(hash_prefix):
        raise OSError(f"the downloaded file has the wrong checksum (SHA-256 {digest.hexdigest()})")


class HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https addresses only."""

    def redirect_request(self, request, file, code, message, headers, url):
        """Return the request for a redirect, or raise OSError if it leaves https."""
        if not url.startswith("https://"):
            raise OSError(f"the server redirects to {url}, which is not https")
        return super().redirect_request(request, file, code, message, headers, url)


def _open(url):
    request = urllib.request.Request(url, headers={"User-Agent": "detlite"})
    return urllib.request.build_opener(HttpsOnly).open(request, timeout=30)
