"""Opening of a user's files."""

import errno
import os
import stat


def open_file(path):
    """The bytes of a regular file, as a stream.

    Raises:
        OSError: it cannot be opened, or is a folder, a device, or a pipe, for whose other end a reader would wait.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return open(path, "rb")
