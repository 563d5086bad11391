"""An untrusted policy directory: which files may be opened, and how.

Only the names below are ever opened, each a regular file (links may lead to one: a
Hugging Face cache is made of links), each under its size limit. Nothing is executed,
nothing is unpickled, and a path is never looked up anywhere else: hub names are given
as `hf://org/name@revision`.

Text is UTF-8; a byte order mark at its start is dropped. Pointers that Git LFS left in
place of files are recognised by their first line, and refused.
"""

import codecs
import dataclasses
import json
import os
import pathlib
import re
import stat
from typing import Any

from gru_mem_jax import storage
from gru_mem_jax.errors import PolicyError
from gru_mem_jax.policy import wrong_paths

_MB = 1 << 20
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
CONFIG = "config.json"

# Real ones are far smaller; parsed JSON takes up to about 20 times its size.
SIZE_LIMITS = {
    CONFIG: 1 * _MB,
    "generation_config.json": 1 * _MB,
    "gru_mem.json": 1 * _MB,
    WEIGHTS_INDEX: 4 * _MB,
    "tokenizer_config.json": 8 * _MB,
    "special_tokens_map.json": 4 * _MB,
    "added_tokens.json": 4 * _MB,
    "chat_template.json": 4 * _MB,
    "chat_template.jinja": 4 * _MB,
    "vocab.json": 64 * _MB,
    "merges.txt": 64 * _MB,
    "tokenizer.json": 64 * _MB,
    "tokenizer.model": 64 * _MB,
}
# Those of them that decide token ids, roles, stop ids or the template: they are kept in
# checkpoints, exported and compared, as are templates in TEMPLATE_FOLDER.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    *("vocab.json", "merges.txt", "tokenizer.model"),  # for other programs alone
)
TEMPLATE_FOLDER = "additional_chat_templates"
_MAX_TEMPLATES = 64
_TEMPLATE_NAME = re.compile(TEMPLATE_FOLDER + r"/[\w-][\w.-]*\.jinja", re.ASCII)
_TEMPLATE_LIMIT = SIZE_LIMITS["chat_template.jinja"]
SHARD_NAME = re.compile(r"[\w.-]+\.safetensors", re.ASCII)
_LFS_HEADS = (
    b"version https://git-lfs.github.com/spec/",
    b"version https://hawser.github.com/spec/",
)
_PICKLES = re.compile(r".*\.(bin|pt|pth|ckpt|pkl|pickle)", re.ASCII)


def is_tokenizer_file(name: str) -> bool:
    """Whether a relative path is in TOKENIZER_FILES or names a further template."""
    return name in TOKENIZER_FILES or _TEMPLATE_NAME.fullmatch(name) is not None


def lfs_pointer(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a Git LFS pointer."""
    return head.startswith(_LFS_HEADS)


def lfs_error(path: str | os.PathLike[str]) -> PolicyError:
    """The error for a file of which only the pointer is present."""
    return PolicyError(
        f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull` in its "
        "folder"
    )


@dataclasses.dataclass(frozen=True)
class PolicyDir:
    """A directory whose files are checked before they are opened.

    Attributes:
      root: where it is.
      commit: the hub's commit that it was fetched at; None for a path.
    """

    root: pathlib.Path
    commit: str | None = None

    def path(self, name: str) -> pathlib.Path | None:
        """The path of a file that may be opened; None if there is none.

        Args:
          name: one of SIZE_LIMITS, a template of TEMPLATE_FOLDER by its path below
            the directory, or `*.safetensors` (of any size).

        Raises:
          PolicyError: another name, not a regular file, or over its limit.
        """
        if _size_limit(name) is None and not SHARD_NAME.fullmatch(name):
            raise PolicyError(
                f"{self.root}: file name {name[:100]!r} is refused: expected letters, "
                "digits, '_', '-', '.' and the ending .safetensors"
            )
        path = self.root / name
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            if path.is_symlink():
                raise PolicyError(f"{path}: the link leads nowhere") from None
            return None
        except OSError as error:
            raise PolicyError(f"{path}: {error.strerror}") from None
        self._check(path, status, name)
        return path

    def read_bytes(self, name: str) -> bytes | None:
        """The contents of a file other than weights; None if it does not exist.

        Raises:
          PolicyError: as `path`, the file cannot be read, or it is Git LFS's pointer.
        """
        path = self.path(name)
        if path is None:
            return None
        if _size_limit(name) is None:
            raise PolicyError(f"{path}: weights are not read as a whole")
        try:
            # Non-blocking: the file may have been replaced by a FIFO meanwhile.
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                self._check(path, os.fstat(fd), name)
                data = file.read(os.fstat(fd).st_size)
        except OSError as error:
            raise PolicyError(f"{path}: {error.strerror}") from None
        if lfs_pointer(data):
            raise lfs_error(path)
        return data

    def read_text(self, name: str) -> str | None:
        """As `read_bytes`, decoded as UTF-8; a byte that is not is an error.

        A byte order mark is dropped.
        """
        data = self.read_bytes(name)
        if data is None:
            return None
        try:
            return data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
        except UnicodeDecodeError as error:
            raise PolicyError(
                f"{self.root / name}: not UTF-8 text, at byte {error.start}"
            ) from None

    def read_json(self, name: str) -> dict[str, Any] | None:
        """As `read_text`, parsed; it must hold an object without doubled names."""
        text = self.read_text(name)
        if text is None:
            return None
        where = self.root / name
        try:
            value = json.loads(text, object_pairs_hook=_unique)
        except RecursionError:
            raise PolicyError(f"{where}: JSON nested too deeply") from None
        except ValueError as error:
            raise PolicyError(f"{where}: not JSON: {str(error)[:200]}") from None
        if not isinstance(value, dict):
            raise PolicyError(
                f"{where}: expected a JSON object, got {type(value).__name__}"
            )
        return value

    def extra_templates(self) -> tuple[str, ...]:
        """Paths below the directory of the templates in TEMPLATE_FOLDER, sorted.

        Raises:
          PolicyError: the folder cannot be read, or holds too many.
        """
        folder = self.root / TEMPLATE_FOLDER
        try:
            # Not through a link: nothing outside of the directory is listed.
            if folder.is_symlink() or not folder.is_dir():
                return ()
            paths = (f"{TEMPLATE_FOLDER}/{entry.name}" for entry in os.scandir(folder))
            found = sorted(path for path in paths if _TEMPLATE_NAME.fullmatch(path))
        except OSError as error:
            raise PolicyError(f"{folder}: {error.strerror}") from None
        if len(found) > _MAX_TEMPLATES:
            raise PolicyError(
                f"{folder}: {len(found)} templates, at most {_MAX_TEMPLATES} are read"
            )
        return tuple(found)

    def pickles(self) -> list[str]:
        """Names of files that look like pickled weights; none is ever opened."""
        names = (entry.name for entry in os.scandir(self.root))
        return sorted(name for name in names if _PICKLES.fullmatch(name))

    def _check(self, path: pathlib.Path, status: os.stat_result, name: str) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise PolicyError(
                f"{path}: expected a regular file, got {_kind(status.st_mode)}"
            )
        limit = _size_limit(name)
        if limit is not None and status.st_size > limit:
            raise PolicyError(
                f"{path}: {status.st_size} bytes, at most {limit} are read"
            )


def _size_limit(name: str) -> int | None:
    """Most bytes of a file that is read as a whole; None for other files."""
    if _TEMPLATE_NAME.fullmatch(name):
        return _TEMPLATE_LIMIT
    return SIZE_LIMITS.get(name)


def open_policy_dir(location: str | os.PathLike[str]) -> PolicyDir:
    """A directory by its path, in a bucket, or of the hub (`hf://org/name@revision`).

    A path is a path: one that does not exist is an error, not a name to look up. "~" is
    the home directory, as in a shell. `gs://bucket/path` is downloaded once.

    Raises:
      PolicyError: there is no such directory, it is known to be something else (a run
        folder, say), or the hub cannot give it.
    """
    if isinstance(location, str) and location.startswith("hf://"):
        from gru_mem_jax.policy.hub import fetch

        root, commit = fetch(location)
        return PolicyDir(root, commit)
    if storage.in_bucket(location):
        from gru_mem_jax.policy import bucket

        return PolicyDir(bucket.fetch(os.fspath(location)))
    root = pathlib.Path(os.path.expanduser(location))
    try:
        is_dir = stat.S_ISDIR(os.stat(root).st_mode)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        raise PolicyError(wrong_paths.explain_missing(str(location))) from None
    if not is_dir:
        raise PolicyError(wrong_paths.explain_file(root))
    bare = not os.path.lexists(root / CONFIG)
    if bare and (other := wrong_paths.explain_folder(root)) is not None:
        raise PolicyError(other)
    return PolicyDir(root)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"name {name[:100]!r} occurs twice")
            seen.add(name)
    return value


def _kind(mode: int) -> str:
    kinds = {
        stat.S_ISDIR: "a directory",
        stat.S_ISFIFO: "a FIFO",
        stat.S_ISSOCK: "a socket",
        stat.S_ISCHR: "a device",
        stat.S_ISBLK: "a device",
    }
    return next((name for test, name in kinds.items() if test(mode)), "something else")


def tokenizer_files(directory: PolicyDir) -> dict[str, bytes]:
    """The tokenizer's files of a policy directory, by name, without byte order marks.

    Other software does not accept such marks. A class that only config.json names is
    written into tokenizer_config.json, since an export's config.json is made anew.
    """
    names = (*TOKENIZER_FILES, *directory.extra_templates())
    found = {name: directory.read_bytes(name) for name in names}
    files = {
        name: data.removeprefix(codecs.BOM_UTF8)
        for name, data in found.items()
        if data is not None
    }
    named = (directory.read_json(CONFIG) or {}).get("tokenizer_class")
    if isinstance(named, str) and "tokenizer.json" in files:
        config = directory.read_json("tokenizer_config.json") or {}
        if not config.get("tokenizer_class"):
            text = json.dumps(config | {"tokenizer_class": named}, indent=2)
            files["tokenizer_config.json"] = f"{text}\n".encode()
    return files
