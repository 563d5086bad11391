"""Which parts of an unfinished build are whole."""

import dataclasses
import json
import pathlib
from typing import Any

from gru_mem_jax import durable_files
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.records import first_difference, from_record, to_record

_NAME = "progress.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A whole file of records.

    Attributes:
      of: "texts", or a length.
      name: below the folder of the set.
      records: in it.
      record_bytes: of them, before compression.
      bytes, sha256: of the file.
    """

    of: str
    name: str
    records: int
    record_bytes: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _State:
    parts: tuple[Part, ...] = ()
    whole: tuple[str, ...] = ()
    ids: str = ""


class Journal:
    """The parts that an interrupted build left, and those that are added."""

    def __init__(self, path: pathlib.Path, wanted: dict[str, Any], state: _State):
        self._path, self._wanted, self._state = path, wanted, state

    @classmethod
    def open(
        cls, work: pathlib.Path, folder: pathlib.Path, wanted: dict[str, Any]
    ) -> "Journal":
        """Reads it, and removes what it does not list from `folder`.

        Args:
          work: folder of the journal.
          folder: of the parts.
          wanted: the identity of the set.

        Raises:
          InputError: the parts are of a set of other settings.
        """
        path = work / _NAME
        identity, state = _read(path)
        if found := first_difference(identity, wanted):
            if state.parts:
                raise InputError(
                    f"{work}: holds an unfinished build of other settings: {found}; "
                    "finish it with them, or remove this folder"
                )
            state = _State()
        kept: list[Part] = []
        lost: set[str] = set()  # a part is of use only after those before it
        for part in state.parts:
            if part.of not in lost and _is_whole(folder / part.name, part):
                kept.append(part)
            else:
                lost.add(part.of)
        names = {folder / part.name for part in kept}
        for file in folder.rglob("*"):
            if file.is_file() and file not in names:
                file.unlink()
        whole = tuple(each for each in state.whole if each not in lost)
        return cls(path, wanted, _State(parts=tuple(kept), whole=whole, ids=state.ids))

    @property
    def parts(self) -> tuple[Part, ...]:
        """All that are whole."""
        return self._state.parts

    def of(self, what: str) -> tuple[Part, ...]:
        """The parts of the texts, or of a length, in order."""
        return tuple(part for part in self.parts if part.of == what)

    def records(self, what: str) -> int:
        """How many records they hold."""
        return sum(part.records for part in self.of(what))

    def is_whole(self, what: str) -> bool:
        """Whether nothing is left to be added to the texts, or to a length."""
        return what in self._state.whole

    def add(self, part: Part) -> None:
        """Notes a whole part."""
        self._replace(parts=(*self.parts, part))

    def mark_whole(self, what: str) -> None:
        """Notes that the texts, or a length, are whole."""
        self._replace(whole=(*self._state.whole, what))

    def check_ids(self, digest: str, where: str) -> None:
        """Notes the ids of a length, which are those of every length.

        Args:
          digest: of the ids.
          where: for the message.

        Raises:
          RunError: they differ.
        """
        if self._state.ids not in ("", digest):
            raise RunError(
                f"{where}: the recipe gives other ids than for other lengths"
            )
        self._replace(ids=digest)

    def remove(self) -> None:
        """Removes the journal."""
        self._path.unlink(missing_ok=True)

    def _replace(self, **changes: Any) -> None:
        self._state = dataclasses.replace(self._state, **changes)
        value = {"set": self._wanted} | to_record(self._state)
        with durable_files.writing(self._path):
            text = json.dumps(value, indent=1) + "\n"
            durable_files.write_atomically(self._path, text)


def _read(path: pathlib.Path) -> tuple[Any, _State]:
    """The identity of the set, and what was whole; nothing if it cannot be read."""
    try:
        value = json.loads(path.read_bytes())
        return value.pop("set"), from_record(_State, value, "progress")
    except (OSError, ValueError, KeyError, AttributeError, RecursionError):
        return None, _State()


def _is_whole(file: pathlib.Path, part: Part) -> bool:
    return (
        file.is_file()
        and file.stat().st_size == part.bytes
        and durable_files.sha256(file) == part.sha256
    )
