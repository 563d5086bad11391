"""Imports of modules beside a gin file, and error messages for them.

Installed modules have precedence over the folders of the gin files and the working
folder: a `random.py` beside a gin file hides nothing. Only gin files and these modules
see the folders: a folder named like an optional package (e.g. `wandb/`, which its runs
create) must not look installed to other code.
"""

import importlib.abc
import importlib.machinery
import os
import pathlib
import sys
import traceback
import types
from typing import Any

from gru_mem_jax.errors import InputError
from gru_mem_jax.records import did_you_mean


class _Beside(importlib.abc.MetaPathFinder):
    """Finds top-level modules in `folders`, after all other finders."""

    def __init__(self):
        self.folders: list[str] = []

    def find_spec(self, name, path=None, target=None):
        if path is not None or not self._is_meant(sys._getframe(1)):
            return None
        return importlib.machinery.PathFinder.find_spec(name, self.folders)

    def _is_meant(self, frame: types.FrameType | None) -> bool:
        """Whether a gin file, or a module in the folders, imports."""
        while frame is not None and _is_machinery(frame.f_code.co_filename):
            frame = frame.f_back
        if frame is None:
            return False
        file = pathlib.Path(os.path.abspath(frame.f_code.co_filename))
        if file.parts[-2:] == ("gin", "config.py") and "gin" in sys.modules:
            return file.parent == pathlib.Path(sys.modules["gin"].__file__).parent
        installed = {"site-packages", "dist-packages", "gru_mem_jax"} & set(file.parts)
        return not installed and any(map(file.is_relative_to, self.folders))

    def invalidate_caches(self) -> None:
        importlib.machinery.PathFinder.invalidate_caches()


def _is_machinery(file: str) -> bool:
    return file.startswith(("<frozen", _IMPORTLIB))


_IMPORTLIB = os.path.dirname(importlib.__file__)
_BESIDE = _Beside()


def start() -> None:
    """Clears the folders of earlier gin files; adds the working folder."""
    _BESIDE.folders = []
    if _BESIDE not in sys.meta_path:
        sys.meta_path.append(_BESIDE)
    add_folder(os.curdir)


def add_folder(folder: str | os.PathLike[str]) -> None:
    """Makes the modules in a folder importable, after those of earlier ones."""
    folder = os.path.abspath(folder)
    if folder not in _BESIDE.folders:
        _BESIDE.folders.append(folder)
        importlib.invalidate_caches()


def process(context: Any, statement: Any) -> None:
    """Processes an `import` of a gin file.

    Args:
      context: the file's gin.config.ParseContext.
      statement: a gin.config_parser.ImportStatement.

    Raises:
      InputError: one line on the error of the import.
    """
    try:
        context.process_import(statement)
    except (Exception, SystemExit) as error:
        if statement.module.startswith("__gin__"):
            raise
        raise InputError(_explain(statement.module, error)) from error


def shadowed_hint(text: str) -> str:
    """A hint for an error about a module that is hidden by an installed one."""
    for name in sys.modules:
        if "." in name or f"<module '{name}'" not in text:
            continue
        found = getattr(sys.modules[name], "__file__", None) or "built in"
        for folder in _BESIDE.folders:
            mine = pathlib.Path(folder, f"{name}.py")
            if mine.is_file() and str(mine) != os.path.abspath(found):
                return (
                    f"; {mine} is hidden by the installed {name} ({found}): give yours "
                    "another name"
                )
    return ""


def _explain(module: str, error: BaseException) -> str:
    """The module, where it was searched or where it fails, and its error."""
    start = f"cannot import {module}"
    text = " ".join(str(error).split())[:300]
    is_missing = isinstance(error, ModuleNotFoundError)
    if is_missing and f"{module}.".startswith(f"{error.name}."):
        folders = ", ".join(_BESIDE.folders)
        known = {
            path.stem
            for folder in _BESIDE.folders
            for path in pathlib.Path(folder).glob("*.py")
        }
        hint = did_you_mean(module, known) if "." not in module else ""
        return (
            f"{start}: no module named {error.name!r}{hint}; searched what is "
            f"installed and {folders}"
        )
    if isinstance(error, SyntaxError) and error.filename:
        return f"{start}: {error.filename}, line {error.lineno}: {error.msg}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen") and frame.filename != __file__
    ]
    where = f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""
    return f"{start}: {where}{type(error).__name__}: {text}".rstrip(": ")
