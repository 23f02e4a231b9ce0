"""The HTTP service of examples/service, in a real process, and its Dockerfile."""

import io
import json
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[2] / "examples/service"


@pytest.fixture(scope="module")
def address(request, tmp_path_factory):
    """The address of a running service, whose detector is untrained."""
    weights = tmp_path_factory.mktemp("weights") / "model.pth"
    code = """if True:
        import sys
        from detlite.checkpoint import save_checkpoint
        from detlite.config import load_config
        from detlite.modeling import build_model
        classes = ["circle", "square", "triangle"]
        cfg = load_config("detlite:quickstart", ["MODEL.CLASSES", classes, "MODEL.DEVICE", "cpu"])
        save_checkpoint({"model": build_model(cfg).state_dict(), "config": cfg.dump(), "classes": classes}, sys.argv[1])
    """
    subprocess.run([sys.executable, "-c", code, weights], check=True)
    command = [sys.executable, FOLDER / "service.py", weights, "127.0.0.1", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    request.addfinalizer(lambda: (process.kill(), process.communicate()))
    return re.search(r"http://\S+", process.stdout.readline())[0]


def post(address, body, headers=None):
    """(status, JSON of the answer) of a request."""
    try:
        request = urllib.request.Request(address, data=body, headers=headers or {})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def png(width, height, mode="RGB"):
    file = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).convert(mode).save(file, "PNG")
    return file.getvalue()


def test_an_image_is_answered_with_a_list_of_detections(address):
    status, answer = post(address, png(100, 80))
    assert status == 200 and isinstance(answer["detections"], list)
    assert post(address, png(10, 10, "L"))[0] == 200


def test_a_get_request_is_answered_with_the_classes(address):
    status, answer = post(address, None)
    assert status == 200 and answer["classes"] == ["circle", "square", "triangle"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (
            b"--form\r\n\r\n" + png(9, 9),
            {},
            400,
            "send the file's bytes alone",
        ),
        (png(100, 80)[:60], {}, 400, "cannot be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", {}, 400, "cannot be read"),
        (b"", {"Content-Length": str(2**40)}, 413, "expected at most 20971520"),
        (b"", {"Content-Length": "-1"}, 411, "Content-Length"),
        (png(8000, 7000, "1"), {}, 413, "the image is 8000 x 7000"),
    ],
)
def test_anything_else_is_answered_with_one_error(address, body, headers, status, words):
    got, answer = post(address, body, headers)
    assert got == status and list(answer) == ["error"] and words in answer["error"]
    assert post(address, png(10, 10))[0] == 200  # it still runs


def test_the_dockerfile_keeps_the_linters_rules():
    linter = shutil.which("hadolint", path=Path(sys.executable).parent)
    # DL3013 asks for pinned versions of pip packages; the requirements of the package state the lowest versions.
    command = [linter, "--ignore", "DL3013", FOLDER / "Dockerfile"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_files_that_the_dockerfile_copies_are_there():
    copied = re.findall(r"^COPY (.+) \S+$", (FOLDER / "Dockerfile").read_text(), re.M)
    names = [name for line in copied for name in line.split() if "$" not in name]
    assert len(names) == 7 and all((FOLDER.parents[1] / name).exists() for name in names)
