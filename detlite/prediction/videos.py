"""Detect in video files, and write videos and tables."""

import contextlib
import logging

import numpy as np

from detlite import writing
from detlite.drawing import Panel, draw_on
from detlite.files import user_path
from detlite.logs import progress
from detlite.prediction.detector import to_tensor
from detlite.prediction.files import COLUMNS, collect, output_files

logger = logging.getLogger("detlite")

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
READING = {"format_whitelist": "asf,avi,matroska,mov,mpeg"}  # other formats, such as playlists, open further files


def predict_videos(av, detector, paths, folder, *, pictures=True, labels=True):
    """Detect in videos, and write ``NAME.mp4.csv`` and, with the detections drawn, ``pictures/NAME.mp4`` for each.

    Each frame is written once it is detected, so memory does not grow with the length. ``av`` is PyAV. Returns a list
    with one message per video that cannot be read to its end. The frames before are in the results.
    """
    folder, failures = user_path(folder), []
    tables = output_files(paths, folder, ".mp4.csv")
    drawn = output_files(paths, folder / "pictures", ".mp4") if pictures else {}
    writing.claim(*tables.values(), *drawn.values(), inputs=paths)
    for path in paths:
        rows = _detect_frames(av, detector, path, drawn.get(path), labels, failures)
        writing.write_csv(rows, tables[path], ("frame", "seconds", *COLUMNS))
    return failures


def _detect_frames(av, detector, path, drawn, labels, failures):
    """Yield a row per detection, and write the frames with their detections to the MP4 file ``drawn``, if any."""
    count, stream, reason = 0, None, ""
    with contextlib.ExitStack() as stack:
        try:
            video = stack.enter_context(av.open(f"file:{path}", options=READING))
            source = video.streams.best("video")
            frames = video.decode(source) if source else ()
            for count, frame in enumerate(progress(frames, unit="frame", desc="predict"), start=1):
                image = to_tensor(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
                detections = detector(image)
                for row in collect([path], {0: (image.shape[-2:], detections)}, detector.classes)[1]:
                    yield {"frame": count - 1, "seconds": frame.time, **row}
                if not drawn:
                    continue
                panel = Panel(image)
                draw_on(panel, detections, detector.classes, with_names=labels)
                if stream is None:
                    file = stack.enter_context(writing.open_to_write(drawn))
                    output = stack.enter_context(av.open(file, "w", format="mp4"))
                    size = {"width": panel.picture.width // 2 * 2, "height": panel.picture.height // 2 * 2}  # even
                    stream = output.add_stream("h264", source.average_rate or 25, pix_fmt="yuv420p", **size)
                picture = av.VideoFrame.from_image(panel.picture).reformat(stream.width, stream.height)
                output.mux(stream.encode(picture))
        except av.FFmpegError as error:
            reason = error.strerror
        if stream:
            output.mux(stream.encode())
    if reason or not count:
        failures.append(f"{path}: read {count} frames, then: {reason or 'no pictures'}")
        logger.warning("%s", failures[-1])
    logger.info("%s: %d frames; see %s", path, count, drawn if stream else "the table")
