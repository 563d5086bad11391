"""What a built data set's folder says about itself: dataset.json."""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from gru_mem_jax import durable_files
from gru_mem_jax.data.builders.recipe import Length, Recipe
from gru_mem_jax.data.files import parse_json, read_file
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import check_int, from_record, to_record
from gru_mem_jax.version import __version__

MANIFEST = "dataset.json"
FORMAT = 1
_REBUILD = "remove the folder, and build it again (gru-mem data build)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionCount:
    """The questions of a length.

    Attributes:
      length: of their documents.
      questions: how many.
    """

    length: Length
    questions: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetManifest:
    """The contents of dataset.json.

    Attributes:
      format: of the folder.
      name: of the recipe.
      recipe: its settings, sha256 of its sources included.
      sets: the questions of each length, which are the same ones.
      texts: in the pool.
      files: bytes of each file, by its name below the folder.
      versions: of what wrote it.
    """

    format: int
    name: str
    recipe: dict[str, Any]
    sets: tuple[QuestionCount, ...]
    texts: int
    files: dict[str, Any]
    versions: dict[str, Any]

    def __post_init__(self) -> None:
        check_int("texts", self.texts, 1)
        if not self.sets:
            raise InputError("sets must name at least one length")
        for each in self.sets:
            check_int("questions", each.questions, 1)
        for name, size in self.files.items():
            check_int(f"files[{name!r:.80}]", size, 0)
            path = pathlib.PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise InputError(f"files: {name!r:.80} is not inside the folder")

    @property
    def lengths(self) -> tuple[Length, ...]:
        """Of which there are questions."""
        return tuple(each.length for each in self.sets)

    @property
    def questions_per_document(self) -> int:
        """How many questions in a row are on one document, at most."""
        recipe: Any = self.recipe
        while isinstance(recipe, dict) and isinstance(recipe.get("of"), dict):
            recipe = recipe["of"]  # a filtered set
        found = recipe.get("questions_per_document", 1)
        return found if type(found) is int and found > 1 else 1

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it this set and no other; see `identity`."""
        lengths = to_record(self.lengths)
        return {"name": self.name, "lengths": lengths, "recipe": self.recipe}


def identity(recipe: Recipe) -> dict[str, Any]:
    """What makes a set this one and no other, as JSON values.

    Raises:
      InputError: as `Recipe.settings`.
    """
    value = {
        "name": recipe.name,
        "lengths": to_record(recipe.lengths),
        "recipe": to_record(recipe.settings()),
    }
    found: dict[str, Any] = json.loads(json.dumps(value))
    return found


def manifest_text(
    wanted: dict[str, Any], texts: int, counts: Sequence[int], files: dict[str, int]
) -> str:
    """The text of dataset.json.

    Args:
      wanted: `identity` of the recipe.
      texts: in the pool.
      counts: questions of each length.
      files: bytes of each file but this one.
    """
    lengths = wanted["lengths"]
    value = {
        "format": FORMAT,
        "name": wanted["name"],
        "recipe": wanted["recipe"],
        "sets": [{"length": e, "questions": n} for e, n in zip(lengths, counts)],
        "texts": texts,
        "files": dict(sorted(files.items())),
        "versions": {"gru_mem_jax": __version__}
        | {
            name: importlib.metadata.version(name)
            for name in ("tensorflow-datasets", "array-record")
        },
    }
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def read_manifest(folder: pathlib.Path) -> DatasetManifest:
    """The manifest of a folder.

    Raises:
      InputError: there is none, it is damaged, or of another format.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; build it by gru-mem data build")
    if not path.is_file():
        raise InputError(
            f"{folder}: holds no {MANIFEST}: expected a folder that gru-mem data build "
            "has made"
        )
    value = parse_json(read_file(os.fspath(path)), os.fspath(path))
    if isinstance(value, dict) and value.get("format") != FORMAT:
        raise InputError(
            f"{path}: has format {value.get('format')!r:.40}, expected {FORMAT}; "
            f"{_REBUILD} with this version"
        )
    try:
        return from_record(DatasetManifest, value, "dataset")
    except InputError as error:
        raise InputError(f"{path}: {error}; {_REBUILD}") from None


def check_sizes(folder: pathlib.Path, manifest: DatasetManifest) -> None:
    """Checks that all files are there, and as long as they were.

    Raises:
      InputError: names those that are not.
    """
    wrong = []
    for name, size in sorted(manifest.files.items()):
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif (found := path.stat().st_size) != size:
            wrong.append(f"{name} has {found} bytes, expected {size}")
    if wrong:
        raise _damaged(folder, wrong)


def verify(folder: pathlib.Path) -> None:
    """Compares every byte with SHA256SUMS.

    Raises:
      InputError: names the files that differ.
    """
    if wrong := durable_files.problems(folder):
        raise _damaged(folder, wrong)


def _damaged(folder: pathlib.Path, wrong: Sequence[str]) -> InputError:
    return InputError(f"{folder}: is damaged: {'; '.join(wrong)}; {_REBUILD}")
