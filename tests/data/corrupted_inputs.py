"""Show that corrupted data is reported, and that no good data is lost: single corruptions, one by one.

    python tests/data/corrupted_inputs.py --count 300

Each is put into a copy of a small good data set (COCO's, VOC's or YOLO's form), to train or to test on, with bad images
and boxes skipped or not. A training must then either take all of the good data and state what it left out, or end with
exit status 1 and one message that names the place; nothing may hang, print a traceback or leave a process.
`check --data-only` must name each corruption that is not harmless. Most run in this process, some in one of their own,
some with workers. Prints a table; exit status 1 if anything was otherwise.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parent))
from corruptions import NUM_IMAGES, copy_set, corruptions, node, write_sets
from detlite.cli import main as detlite

SECONDS = 60  # that a command may take
KEYS = """MODEL.DEVICE cpu MODEL.BACKBONE.DEPTH 11 MODEL.BACKBONE.WIDTH 0.0625 MODEL.BACKBONE.FREEZE_AT 0
MODEL.RPN.HEAD.CONV_DIM 8 MODEL.RPN.ANCHOR_GENERATOR.SIZES [16,32] MODEL.RPN.INSIDE_ONLY false
MODEL.RPN.POST_NMS_TOP_N_TRAIN 20 MODEL.RPN.POST_NMS_TOP_N_TEST 5 MODEL.ROI_HEADS.BOX_HEAD.FC_DIM 8
MODEL.ROI_HEADS.SAMPLER.NUM_SAMPLES 8 TRANSFORMS.TRAIN [] TRANSFORMS.TEST [] SOLVER.BATCH_SIZE 1
SOLVER.LOG_PERIOD 1 SOLVER.CHECKPOINT_PERIOD 100 EVALUATION.PICTURES 1""".split()


class Hung(BaseException):
    """Not an Exception, so that nothing takes it for a fault of a file."""


def hang(number, frame):
    raise Hung


def run(arguments, own_process):
    """Return a command's exit status and its output. The status is a word if it hung, raised or left a process."""
    if own_process:
        code = "import sys; from detlite.cli import main; sys.exit(main())"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )
        try:
            text = process.communicate(timeout=2 * SECONDS)[0].decode("utf-8", "replace")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return "hung", process.communicate()[0].decode("utf-8", "replace")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 0)
            return "left a process", text
        return process.returncode, text
    # As strict as the real ones, which a StringIO is not.
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    err = io.TextIOWrapper(out.buffer, encoding="utf-8", errors="backslashreplace", write_through=True)
    signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("always")
            status = detlite(arguments)
    except Hung:
        status = "hung"
    except BaseException as error:  # whatever it is, a user would see its traceback
        status = f"raised {error!r:.200}"
    finally:
        signal.alarm(0)
    deadline = time.monotonic() + 5
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    if multiprocessing.active_children():
        status = "left a process"
    return status, out.buffer.getvalue().decode()


def names_it(text, named):
    return all(part in text for part in named)


def judge_training(expected, skip, is_test, objects, status, text):
    """Describe the mistake in the end of a training; return "" if there is none."""
    if not isinstance(status, int) or "Traceback" in text or "Error:" in text:
        return f"ended badly: {status}"
    stops = expected.effect == "stop" or (expected.effect in ("image", "box") and not skip)
    if stops:
        messages = [line for line in text.splitlines() if line.startswith("error: ")]
        if status != 1 or len(messages) != 1:
            return f"was to stop with one message; status {status}, {len(messages)} messages"
        return "" if names_it(messages[0], expected.named) else f"the message does not name {expected.named}"
    if status != 0:
        return f"was to train; status {status}"
    lost = expected.objects - (expected.effect == "box")
    trained = f"{NUM_IMAGES + expected.images} images, {objects + lost} objects; left out: "
    trained += "1 bad boxes" if expected.effect == "box" else "nothing"
    if trained not in text:
        return f"does not state {trained!r}"
    bad = expected.effect == "image"
    replaced = re.findall(r"(\d+) bad images were replaced", text)
    missed = re.findall(r"(\d+) bad images were left out", text)
    if (replaced, missed) != ((["1"] if bad and not is_test else []), (["1"] if bad and is_test else [])):
        return f"counts bad images as {replaced}, {missed}"
    return "" if not bad or names_it(text, expected.named) else f"the log does not name {expected.named}"


def judge_check(expected, skip, is_test, status, text):
    """Describe the mistake in a check's output; return "" if there is none."""
    if not isinstance(status, int) or "Traceback" in text or "Error:" in text:
        return f"ended badly: {status}"
    stops = expected.effect == "stop" or (expected.effect in ("image", "box") and not skip)
    if status != (stops or (expected.effect == "out of reach" and is_test)):
        return f"has status {status}, not {int(stops)}"
    told = "\n".join(line for line in text.splitlines() if not line.startswith(("pass", "error: ")))
    if expected.effect != "good" and not any(names_it(line, expected.named) for line in told.splitlines()):
        return f"does not name {expected.named}"
    return "names what is good" if expected.effect == "good" and "picture" in told else ""


def try_corruption(number, form, corrupt, good, objects, folder):
    """Try one corruption. Return the outcome, and complaints with the commands' output."""
    draw = random.Random(number)
    shutil.rmtree(folder / "output", ignore_errors=True)
    folder = copy_set(good / form, folder / form)
    expected = corrupt(folder, draw)
    is_test, skip = number % 3 == 2, number // 3 % 2 == 0
    spoiled = node(folder, form) | {"BAD_BOXES": "skip" if skip else "error"}
    shapes = {"NAME": "ShapesDataset", "IMAGE_SIZE": 64, "NUM_IMAGES": 2}
    train, test = (shapes, spoiled) if is_test else (spoiled, shapes)
    steps = 1 if is_test else NUM_IMAGES + expected.images
    words = ["DATASETS.TRAIN", json.dumps([train]), "DATASETS.TEST", json.dumps(test), "SOLVER.MAX_ITER", str(steps)]
    words += ["DATASETS.BAD_IMAGE", "skip" if skip else "error", "OUTPUT_DIR", str(folder.parent / "output")]
    words += ["DATASETS.NUM_WORKERS", "2" if number % 7 == 3 else "0", *KEYS]
    own_process = number % 25 == 10
    status, text = run(["train", *words], own_process)
    wrong = judge_training(expected, skip, is_test, objects, status, text)
    checked, said = run(["check", "--data-only", *words], own_process)
    wrong_check = judge_check(expected, skip, is_test, checked, said)
    outcome = (
        "stopped, named" if status == 1 else "trained, counted" if expected.effect in ("image", "box") else "trained"
    )
    if expected.effect == "good":
        outcome = "harmless: trained"
    complaints = [f"training {wrong}\n{text}"] * bool(wrong) + [f"check {wrong_check}\n{said}"] * bool(wrong_check)
    return outcome, complaints


def main():
    """Try --count corruptions, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of their choice")
    parser.add_argument("--only", default="", help="part of the names of those to try")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kinds = [kind for kind in corruptions() if options.only in " ".join(kind[:2])]
    random.Random(options.seed).shuffle(kinds)
    table, failed = Counter(), 0
    with tempfile.TemporaryDirectory() as temporary:
        good = Path(temporary, "good")
        objects = write_sets(good)
        for number in range(options.count):
            form, kind, corrupt = kinds[number % len(kinds)]
            seed = number + 1000 * options.seed
            outcome, complaints = try_corruption(seed, form, corrupt, good, objects, Path(temporary))
            failed += bool(complaints)
            table[form, kind, "WRONG" if complaints else outcome] += 1
            for complaint in complaints:
                print(f"{number}: {form}, {kind}: {complaint}", flush=True)
    rows = sorted(table.items())
    for (form, kind, outcome), count in rows:
        print(f"{form:5}{kind:32}{outcome:20}{count:3}")
    outcomes = Counter()
    for (_, _, outcome), count in rows:
        outcomes[outcome] += count
    print(f"{options.count} corruptions: {dict(outcomes)}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
