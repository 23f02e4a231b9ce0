"""Videos without PyAV; tests/release has the tests with it."""

import sys

from detlite.cli import main


def test_a_video_without_its_package_is_one_message_before_the_weights_are_read(tmp_path, monkeypatch, capsys):
    (tmp_path / "clip.MOV").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["predict", "--weights", "nowhere.pth", str(tmp_path / "clip.MOV")]) == 1
    expected = f"error: {tmp_path}/clip.MOV: needs the package av (detlite's extra video): pip install av\n"
    assert capsys.readouterr().err == expected
