"""The words, numbers and codes that RULER's tasks hide."""

import functools
import importlib.metadata
import importlib.resources
import random
import uuid

from gru_mem_jax.errors import InputError

KINDS = ("words", "numbers", "uuids")


@functools.cache
def word_list(name: str) -> tuple[str, ...]:
    """A list of the package wonderwords (MIT), sorted, each word once.

    Args:
      name: "noun", "adjective" or "verb".

    Raises:
      InputError: the package is missing, or has another form.
    """
    try:
        assets = importlib.resources.files("wonderwords.assets")
        text = (assets / f"{name}list.txt").read_text(encoding="utf-8")
    except (ImportError, OSError):
        raise InputError(
            "RULER's words are those of the package wonderwords, 3.0 or later, which "
            "cannot be read here; install it: pip install 'gru_mem_jax[ruler]'"
        ) from None
    return tuple(sorted({line.strip() for line in text.splitlines()} - {""}))


def words_version() -> str:
    """The package and version that the words are of: others have other words.

    Raises:
      InputError: as for `word_list`.
    """
    word_list("noun")
    return f"wonderwords {importlib.metadata.version('wonderwords')}"


class Names:
    """Draws keys and values, none of them twice.

    Args:
      rng: of the draws.
      taken: that are not drawn; all that is drawn is added.
    """

    def __init__(self, rng: random.Random, taken: set[str]):
        self._rng, self._taken = rng, taken

    def draw(self, kind: str) -> str:
        """A name of one of `KINDS`."""
        while True:
            name = draw(self._rng, kind)
            if name not in self._taken:
                self._taken.add(name)
                return name


def draw(rng: random.Random, kind: str) -> str:
    """A word (adjective-noun), a number of 7 digits, or a uuid of version 4."""
    if kind == "numbers":
        return str(rng.randint(1_000_000, 9_999_999))
    if kind == "uuids":
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    return f"{rng.choice(word_list('adjective'))}-{rng.choice(word_list('noun'))}"
