"""The wheel and the sdist work in a fresh environment, outside the checkout."""

import sys
from pathlib import Path

import detlite

WRITE_IMAGES = """
import json, pathlib
from PIL import Image
from detlite.data import ShapesDataset

shapes = ShapesDataset(num_images=12, image_size=128)
truth = shapes.coco()
folder = pathlib.Path("data/shapes/images")
folder.mkdir(parents=True)
for row in truth["images"]:
    row["file_name"] = f"{row['id']}.png"
    Image.fromarray(shapes[row["id"]][0].permute(1, 2, 0).numpy()).save(folder / row["file_name"])
pathlib.Path("data/shapes/shapes.json").write_text(json.dumps(truth))
"""
WEIGHTS = "output/quickstart/model_final.pth"


def test_the_distributions_are_fit_for_an_upload(run, distributions):
    run(sys.executable, "-m", "twine", "check", "--strict", *distributions.values())


def test_every_command_runs_from_an_empty_folder(run, installed):
    folder, empty = installed

    def detlite_command(*words):
        return run(folder / "detlite", *words, folder=empty)

    location = run(
        folder / "python", "-c", "import detlite; print(detlite.__version__, detlite.__file__)", folder=empty
    )
    assert location.split()[0] == detlite.__version__ and location.split()[1].startswith(str(folder.parent))
    assert "detlite:quickstart" in detlite_command("configs")

    detlite_command("train", "--config-file", "detlite:quickstart", "SOLVER.MAX_ITER", "20")
    detlite_command("test", "--weights", WEIGHTS, "--report")
    assert (empty / "output/quickstart/report.html").exists()

    run(folder / "python", "-c", WRITE_IMAGES, folder=empty)
    detlite_command("init", "data/shapes")
    detlite_command("check", "--config-file", "shapes.yaml", "--data-only")
    detlite_command("predict", "--weights", WEIGHTS, "data/shapes/images", "--output", "found")
    assert len(list((empty / "found/pictures").glob("*.png.jpg"))) == 12
    detlite_command("export", "--weights", WEIGHTS, "--output", "model.onnx")
    assert (empty / "model.onnx").stat().st_size > 2**20
    explained = detlite_command("explain", "--config-file", "detlite:quickstart", "MODEL.RPN.MATCHER")
    assert "FOREGROUND_IOU" in explained and "0.7" in explained

    (empty / "my.yaml").write_text("_BASE_: [detlite:faster_rcnn_vgg16_voc07, detlite:modern]\n")
    assert "70000" in detlite_command("explain", "--config-file", "my.yaml", "SOLVER.MAX_ITER")


def test_a_strict_type_checker_accepts_a_users_program(run, installed):
    folder, empty = installed
    program = Path(__file__).with_name("typed_names.py")
    run(sys.executable, "-m", "mypy", "--strict", "--python-executable", folder / "python", program, folder=empty)
