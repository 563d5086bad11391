"""Where gin files are found: in the search paths, then among those of the package."""

import os
import pathlib
from collections.abc import Sequence
from typing import TextIO

from gru_mem_jax.cli import gin_imports
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import did_you_mean

# Holds `gin/`, the files that come with the package: `gin/runs/sft.gin` is found from
# every working directory.
SHIPPED = pathlib.Path(__file__).resolve().parents[1]


def open_text(path: str) -> TextIO:
    """Opens a gin file; the modules beside it can be imported from now on."""
    folder = pathlib.Path(os.path.abspath(path)).parent
    if not folder.is_relative_to(SHIPPED):
        gin_imports.add_folder(folder)
    return open(path, encoding="utf-8-sig")


def find(file: str, prefixes: Sequence[str]) -> str:
    """The first existing `prefix/file`.

    Raises:
      InputError: there is none, or it is a folder.
    """
    prefixes = [""] if os.path.isabs(file) else prefixes
    for prefix in prefixes:
        path = os.path.join(prefix, file)
        if os.path.isfile(path):
            return path
        if os.path.isdir(path):
            raise InputError(f"--gin_file: {path} is a folder, expected a file")
    names = set()
    for prefix in prefixes:
        folder = pathlib.Path(prefix, file).parent
        if folder.is_dir():
            names |= {p.name for p in folder.glob("*.gin")}
    where = ", ".join(prefix or "." for prefix in prefixes)
    raise InputError(
        f"--gin_file: no file {file}{did_you_mean(pathlib.Path(file).name, names)}"
        + ("" if os.path.isabs(file) else f"; looked in {where}")
    )
