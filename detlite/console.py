"""The console: output that survives a closed pipe, a full disk and a missing stream."""

import contextlib
import io
import os
import sys

# Control characters, line ends and marks that change the direction of text.
_UNSEEN = {
    code: ascii(chr(code))[1:-1] for code in (*range(32), *range(127, 160), *range(8232, 8239), *range(8294, 8298))
}


def keep_console():
    """Make standard output and error safe to write to for the rest of the process.

    A broken pipe (``| head``), a closed terminal or a full disk then drops text instead of raising an OSError. A closed
    stream (``>&-``) becomes the null device: else the next opened file, such as a checkpoint, would get its number.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest free number, this one
        stream = getattr(sys, name)
        if number and stream is getattr(sys, f"__{name}__"):  # not replaced by a test or a notebook
            setattr(sys, name, _open_lossy(number, stream))


def printable(text, stream=None):
    """Escape characters that control a terminal, or that a stream's encoding lacks, but not line ends and tabs."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    return text.translate(_UNSEEN | {9: "\t", 10: "\n"}).encode(encoding, "backslashreplace").decode(encoding)


def one_line(text):
    """Escape all control characters in a text of others, line ends included: it cannot look like a line of ours.

    >>> print(one_line("cat\\nerror: none"))
    cat\\nerror: none
    """
    return text.translate(_UNSEEN)


def _open_lossy(number, stream):
    """Return a line-buffered text stream for a standard stream's number. ``stream`` is None if it was closed."""
    if stream is None:
        raw, encoding = io.FileIO(number, "w", closefd=False), "utf-8"
    else:
        with contextlib.suppress(OSError):
            stream.flush()
        raw, encoding = getattr(stream.buffer, "raw", stream.buffer), stream.encoding
    return io.TextIOWrapper(io.BufferedWriter(_LossyFile(raw)), encoding, "backslashreplace", line_buffering=True)


class _LossyFile(io.RawIOBase):
    """A raw stream whose text is dropped when it cannot be written."""

    def __init__(self, raw):
        self.raw = raw
        self.fileno = raw.fileno
        self.isatty = raw.isatty

    def writable(self):
        return True

    def write(self, data):
        try:
            written = self.raw.write(data)
        except OSError:
            written = None
        return len(data) if written is None else written
