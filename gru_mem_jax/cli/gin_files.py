"""Finds gin files in the search paths, then among those of the package."""

import os
import pathlib
from collections.abc import Sequence
from typing import TextIO

from gru_mem_jax.cli import gin_imports
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import did_you_mean

# Holds `gin/`, the package's gin files: `gin/runs/sft.gin` is found from any working
# directory.
SHIPPED = pathlib.Path(__file__).resolve().parents[1]


def search_folders(search_paths: Sequence[str]) -> list[str]:
    """The folders to search, from the values of --gin_search_paths.

    Raises:
      InputError: one of them is not a folder.
    """
    given = [path for paths in search_paths for path in paths.split(",") if path]
    for path in given:
        if not os.path.isdir(path):
            raise InputError(f"--gin_search_paths: {path} is not a folder")
    return ["", *given, str(SHIPPED)]


def find(file: str, folders: Sequence[str], asked_by: str = "--gin_file") -> str:
    """The first existing `folder/file`.

    Raises:
      InputError: there is none, or it is a folder.
    """
    folders = [""] if os.path.isabs(file) else folders
    for folder in folders:
        path = os.path.join(folder, file)
        if os.path.isfile(path):
            return path
        if os.path.isdir(path):
            raise InputError(f"{asked_by}: {path} is a folder, expected a file")
    names: set[str] = set()
    for folder in folders:
        parent = pathlib.Path(folder, file).parent
        if parent.is_dir():
            names |= {p.name for p in parent.glob("*.gin")}
    where = ", ".join(folder or "." for folder in folders)
    raise InputError(
        f"{asked_by}: no file {file}{did_you_mean(pathlib.Path(file).name, names)}"
        + ("" if os.path.isabs(file) else f"; searched {where}")
    )


def open_text(path: str) -> TextIO:
    """Opens a gin file; makes the modules beside it importable."""
    folder = pathlib.Path(os.path.abspath(path)).parent
    if not folder.is_relative_to(SHIPPED):
        gin_imports.add_folder(folder)
    return open(path, encoding="utf-8-sig")  # editors may put a byte order mark
