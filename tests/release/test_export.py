"""Each kind of detector detects the same in an ONNX file and in a torch program."""

import pytest
from exported import (
    BATCHES,
    DETECTORS,
    EXACTLY_RESIZED,
    RESIZE,
    assert_onnxruntime_detects_the_same,
    assert_torch_detects_the_same,
    is_exported,
)


@pytest.mark.parametrize("is_resized", [False, True])
@pytest.mark.parametrize("name", DETECTORS)
def test_onnxruntime_detects_what_the_detector_does_at_all_batches_and_sizes(
    checkpoint, tmp_path, name, is_resized, capsys
):
    path = checkpoint(**DETECTORS[name], TRANSFORMS__TEST=[RESIZE] if is_resized else [])
    if is_exported(["--weights", path, "--output", tmp_path / "model.onnx"], capsys):
        shapes = EXACTLY_RESIZED if is_resized else BATCHES
        assert_onnxruntime_detects_the_same(tmp_path / "model.onnx", path, shapes)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_torch_program_resizes_and_detects_what_the_detector_does(checkpoint, tmp_path, name, capsys):
    path = checkpoint(**DETECTORS[name], TRANSFORMS__TEST=[RESIZE])
    if is_exported(["--weights", path, "--output", tmp_path / "model.pt2"], capsys):
        assert_torch_detects_the_same(tmp_path / "model.pt2", path, [*BATCHES, *EXACTLY_RESIZED])
