"""Videos, which need PyAV: `detlite predict` reads them frame by frame."""

import csv
import struct

import av
import pytest
import torch

from detlite.cli import main
from detlite.data import ShapesDataset
from detlite.memory import peak_memory, reset_peak_memory
from detlite.prediction.detector import Detector
from detlite.prediction.videos import predict_videos

SHAPES = ShapesDataset(image_size=96, num_images=12, seed=3)
UPRIGHT = (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
TURNED = (0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)  # to be shown turned by 90 degrees, clockwise


def write_video(path, count=12, codec="h264", **options):
    """Write a video of `count` images of 96 x 80 pixels (width, height), ten per second."""
    with av.open(str(path), "w", options=options) as video:
        stream = video.add_stream(codec, rate=10, width=96, height=80, pix_fmt="yuv420p")
        for number in range(count):
            pixels = SHAPES[number % 12][0][:, :80].permute(1, 2, 0).numpy().copy()
            video.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        video.mux(stream.encode())
    return path


def frames_of(path):
    with av.open(str(path)) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


@pytest.fixture
def predict(checkpoint, tmp_path):
    """A function: words of `detlite predict` -> its status."""
    words = ["--weights", str(checkpoint()), "--device", "cpu", "--output", str(tmp_path / "out")]
    return lambda *more: main(["predict", *map(str, more), *words])


def test_the_table_has_the_detections_of_each_frame_and_the_video_shows_them(predict, tmp_path):
    path = write_video(tmp_path / "clip.avi", codec="mpeg4")
    assert predict(path, "--score-threshold", "0.3") == 0
    detector = Detector.from_checkpoint(tmp_path / "tiny.pth", device="cpu", score_threshold=0.3)
    expected = [
        (str(number), f"{number / 10:.1f}", name, round(score, 4))
        for number, pixels in enumerate(frames_of(path))
        for found in [detector(pixels)]
        for name, score in zip(found["names"], found["scores"].tolist(), strict=True)
    ]
    with open(tmp_path / "out/clip.mp4.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["frame"], row["seconds"], row["name"], float(row["score"])) for row in rows] == expected != []

    drawn = frames_of(tmp_path / "out/pictures/clip.mp4")
    assert len(drawn) == 12 and drawn[0].shape == (320, 384, 3)  # small ones are enlarged, as pictures are


def test_damaged_videos_are_named_and_what_was_decoded_is_kept(predict, tmp_path, capsys):
    write_video(tmp_path / "whole.mp4", 60)
    (tmp_path / "none.mp4").write_bytes(b"no video")
    (tmp_path / "playlist.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nwhole.mp4\n#EXT-X-ENDLIST\n")
    hurt = write_video(tmp_path / "hurt.mp4", 60, movflags="faststart")  # which keeps the frames at the end
    hurt.write_bytes(hurt.read_bytes()[: hurt.stat().st_size * 2 // 3])

    names = [tmp_path / name for name in ("none.mp4", "playlist.mp4", "hurt.mp4", "whole.mp4")]
    assert predict(*names) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"error: 3 of 4 files could not be read; the first: {names[0]}: read 0 frames, then: Invalid")
    count = len(frames_of(tmp_path / "out/pictures/hurt.mp4"))
    assert 10 < count < 60 and f"hurt.mp4: read {count} frames, then: Invalid data" in out
    assert len(frames_of(tmp_path / "out/pictures/whole.mp4")) == 60


def test_a_file_with_sound_alone_does_not_end_the_rest_and_two_videos_of_one_name_are_one_message(
    predict, tmp_path, capsys
):
    with av.open(str(tmp_path / "sound.mkv"), "w") as sound:
        stream = sound.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame(format="s16", layout="stereo", samples=1024)
        frame.sample_rate = 8000
        sound.mux(stream.encode(frame))
    write_video(tmp_path / "whole.mp4", 3)
    assert predict(tmp_path / "sound.mkv", tmp_path / "whole.mp4") == 1
    reason = f"{tmp_path}/sound.mkv: read 0 frames, then: no pictures"
    assert capsys.readouterr().err == f"error: 1 of 2 files could not be read; the first: {reason}\n"
    assert len(frames_of(tmp_path / "out/pictures/whole.mp4")) == 3
    for name in ("a.avi", "a.mp4"):
        (tmp_path / name).touch()
    assert predict(tmp_path / "a.avi", tmp_path / "a.mp4") == 1
    assert "a.avi and" in capsys.readouterr().err


def test_a_video_of_a_turned_phone_is_turned_upright(predict, tmp_path):
    path = write_video(tmp_path / "phone.mp4")
    data = path.read_bytes()
    start = data.index(struct.pack(">9i", *UPRIGHT), data.index(b"tkhd"))
    path.write_bytes(data[:start] + struct.pack(">9i", *TURNED) + data[start + 36 :])
    assert predict(path, "--score-threshold", "1.1") == 0
    drawn = torch.from_numpy(frames_of(tmp_path / "out/pictures/phone.mp4")[0]).float()
    assert drawn.shape == (384, 320, 3)
    turned = torch.from_numpy(frames_of(path)[0].copy()).float().rot90(-1)  # the frames themselves are stored as before
    small = torch.nn.functional.interpolate(drawn.permute(2, 0, 1)[None], size=(96, 80), mode="area")[0]
    assert (small - turned.permute(2, 0, 1)).abs().mean() < 8


def test_memory_does_not_grow_with_the_length(checkpoint, tmp_path):
    detector = Detector.from_checkpoint(checkpoint(), device="cpu", score_threshold=0.3)
    peaks = []
    for count in (20, 20, 200):
        path = write_video(tmp_path / f"{count}.mp4", count)
        reset_peak_memory()
        assert predict_videos(av, detector, [str(path)], tmp_path / "out") == []
        peaks.append(peak_memory())
    assert peaks[2] - peaks[1] < 20 * 2**20  # the drawn frames alone are 70 MB
