"""An ONNX file of `detlite export` takes the place of a checkpoint, and a stranger's file is one message."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from detlite.cli import main
from detlite.config import load_config
from detlite.prediction.detector import Detector

CLASSES = ["circle", "square", "triangle"]


@pytest.fixture
def onnx_file(tiny_opts, tmp_path):
    """A function: (label, metadata) -> a file with detlite's interface that finds one box in every image."""

    def write(label=2, metadata=None):
        boxes = np.array([[[1, 2, 30, 40], [0, 0, 0, 0]]], np.float32)
        arrays = {"boxes": boxes, "scores": np.array([[0.75, 0]], np.float32)}
        arrays |= {"labels": np.array([[label, 0]]), "counts": np.array([1])}
        nodes, outputs = [], []
        for name, array in arrays.items():
            nodes.append(helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(array)))
            outputs.append(helper.make_tensor_value_info(name, nodes[-1].attribute[0].t.data_type, array.shape))
        pixels = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 3, "h", "w"])
        graph = helper.make_graph(nodes, "detector", [pixels], outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        if metadata is None:
            cfg = load_config(opts=tiny_opts(MODEL__CLASSES=CLASSES))
            metadata = {"classes": json.dumps(CLASSES), "config": cfg.dump()}
        helper.set_model_props(model, metadata)
        onnx.save(model, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return write


def test_boxes_are_cut_at_the_count_and_named_and_thresholds_apply(onnx_file, tmp_path, capsys):
    path = onnx_file()
    (found,) = Detector.from_onnx(path)([torch.zeros(3, 50, 60)])
    assert found["names"] == ["square"] and found["scores"].tolist() == [0.75]
    assert found["boxes"].tolist() == [[1, 2, 30, 40]]
    assert not Detector.from_onnx(path, score_threshold=0.8)(torch.zeros(3, 50, 60))["names"]
    assert main(["test", "--weights", str(path), "--report", "EVALUATION.PICTURES", "0"]) == 0
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    assert [row["bbox"] for row in predictions] == [[1, 2, 29, 38]] * 5


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.ROI_HEADS.NMS.IOU", "0.4"], "command line: MODEL.ROI_HEADS.NMS.IOU 0.4 would change an exported"),
        (["MODEL.PRECISION", "bf16"], "command line: MODEL.PRECISION bf16 would change an exported detector"),
        (["TRANSFORMS.TEST", "[{NAME: ResizeShortSide}]"], "TRANSFORMS.TEST "),
    ],
)
def test_a_value_that_the_graph_contains_cannot_change(onnx_file, opts, message, capsys):
    assert main(["test", "--weights", str(onnx_file()), *opts]) == 1
    assert message in capsys.readouterr().err


def test_an_exported_detector_neither_trains_nor_is_exported_again(onnx_file, tiny_opts, tmp_path, capsys):
    path = str(onnx_file())
    for command in (["export", "--weights", path, "--output", str(tmp_path / "b.onnx")],
                    ["train", *tiny_opts(MODEL__WEIGHTS=path)],
                    ["visualize", "--what", "detections", "--weights", path]):  # fmt: skip
        assert main(list(map(str, command))) == 1
        assert f"{path}: an exported detector has no weights to load" in capsys.readouterr().err


def test_a_stranger_s_onnx_file_is_one_message_and_runs_no_import(onnx_file, tmp_path, capsys):
    def error(path):
        assert main(["predict", "--weights", str(path), str(picture), "--output", str(tmp_path / "found")]) == 1
        text = capsys.readouterr().err
        assert "Traceback" not in text and text.count("error:") == 1
        return text

    picture = tmp_path / "image.png"
    Image.new("RGB", (40, 40)).save(picture)
    assert "not a detector of `detlite export`" in error(onnx_file(metadata={"classes": json.dumps(CLASSES)}))
    assert "labels are not 1 ... 3" in error(onnx_file(label=9))
    assert "must be a list of names" in error(onnx_file(metadata={"classes": "7", "config": ""}))
    config = f"IMPORTS: [{tmp_path}/strange.py]"
    (tmp_path / "strange.py").write_text("raise SystemError")
    assert "to allow this code to run" in error(onnx_file(metadata={"classes": '["a"]', "config": config}))
    tag = "!!python/object/apply:os.system [exit]"
    assert "config in" in error(onnx_file(metadata={"classes": '["a"]', "config": tag}))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(onnx_file().read_bytes()[:200])
    assert "cannot be read as weights, perhaps incomplete" in error(broken)
    assert "no such file of weights" in error(tmp_path / "missing.onnx")
