"""The verdict on an attack can fail: each rule, broken by a command."""

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from verdict import Case, judge


def complaints_about(command, folder, seconds=30, **places):
    """Return the complaints about a function, judged in another process."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            outcome = judge(lambda: Case("test", command, **places), folder / "case", seconds)
            os.write(writing, json.dumps(outcome.complaints).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        text = pipe.read()
    os.wait()
    return json.loads(text)


def connect():
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", 9))


def leave_a_process():
    if os.fork() == 0:
        os.setsid()
        time.sleep(60)


def write_outside():
    outside = Path("../../outside")
    outside.write_text("x")
    outside.unlink()


def change_a_file_in_place():
    path = Path("../elsewhere/notes.txt")
    before = path.stat()
    path.write_text("of another PROGRAM")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


BROKEN = {
    "status": (lambda: 7, "exit status 7"),
    "signal": (lambda: os.kill(os.getpid(), 9), "exit status 137"),
    "exception": (lambda: {}["x"], "printed 'Traceback (most recent call last)'"),
    "escape sequence": (lambda: print("\x1b[31m"), r"printed '\x1b'"),
    "program": (lambda: subprocess.run(["true"]) and None, "started a program: ('true', ['true'])"),
    "network": (connect, "used the network: socket.getaddrinfo ['127.0.0.1', 9, 0, 1, 0]"),
    "process": (leave_a_process, "left 1 processes"),
    "outside": (write_outside, "opened for writing: ../../outside"),
    "changed": (change_a_file_in_place, "changed or removed '../elsewhere/notes.txt'"),
    "removed": (lambda: os.unlink("../elsewhere/photo.png"), "changed or removed '../elsewhere/photo.png'"),
    "new": (lambda: Path("new").touch(), "made 'new'"),
    "hidden": (lambda: Path("../home/.cache").mkdir(), "made '../home/.cache'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_rule_is_named(tmp_path, name):
    command, complaint = BROKEN[name]
    assert complaint in complaints_about(command, tmp_path)


def test_a_hang_is_named_and_ended(tmp_path):
    assert complaints_about(lambda: time.sleep(600), tmp_path, seconds=0.3) == [
        "exit status missing: still running after 0.3 s"
    ]


def test_an_error_in_one_line_and_new_files_in_the_right_place_are_no_fault(tmp_path):
    def command():
        Path("output").mkdir()
        Path("output/x").touch()
        Path("../elsewhere/log.txt").write_text("appended")
        raise SystemExit("error: one line")

    assert complaints_about(command, tmp_path, owns=("../elsewhere",)) == []
