"""What a disk, a copy or a crash can do to the files of a saved step."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


def truncate(path: pathlib.Path) -> None:
    """Its last byte is gone."""
    os.truncate(path, path.stat().st_size - 1)


def halve(path: pathlib.Path) -> None:
    """What follows its middle is gone."""
    os.truncate(path, path.stat().st_size // 2)


def empty(path: pathlib.Path) -> None:
    """The name is there, the contents are not."""
    os.truncate(path, 0)


def remove(path: pathlib.Path) -> None:
    """It is gone."""
    path.unlink()


def flip_first(path: pathlib.Path) -> None:
    """One bit of its first byte."""
    flip(path, 0)


def flip_middle(path: pathlib.Path) -> None:
    """One bit in the middle: array data, where Orbax notices nothing."""
    flip(path, path.stat().st_size // 2)


def flip_last(path: pathlib.Path) -> None:
    """One bit of its last byte."""
    flip(path, path.stat().st_size - 1)


def grow(path: pathlib.Path) -> None:
    """One byte more than was written."""
    with open(path, "ab") as file:
        file.write(b"\0")


def replace_by_folder(path: pathlib.Path) -> None:
    """A folder of its name."""
    path.unlink()
    path.mkdir()


def replace_by_fifo(path: pathlib.Path) -> None:
    """A pipe that nobody writes to: who opens it waits for ever."""
    path.unlink()
    os.mkfifo(path)


def replace_by_link(path: pathlib.Path) -> None:
    """A link to a copy elsewhere, which its owner may change at any time."""
    elsewhere = path.parents[3] / "elsewhere"
    elsewhere.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(elsewhere)


def flip(path: pathlib.Path, index: int, bit: int = 0) -> None:
    """One bit of one byte."""
    data = bytearray(path.read_bytes())
    data[index] ^= 1 << bit
    path.write_bytes(data)


KINDS = (
    truncate,
    halve,
    empty,
    remove,
    flip_first,
    flip_middle,
    flip_last,
    grow,
    replace_by_folder,
    replace_by_fifo,
)


def files(step: pathlib.Path) -> list[pathlib.Path]:
    """All files of a step."""
    return sorted(path for path in step.rglob("*") if path.is_file())


@contextlib.contextmanager
def damaged(path: pathlib.Path, kind) -> Iterator[None]:
    """The file is damaged while entered, and as it was afterwards."""
    data = path.read_bytes()
    kind(path)
    try:
        yield
    finally:
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(data)
