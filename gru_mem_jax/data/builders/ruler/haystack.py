"""What needles hide in: an essay's sentences, the noise, or other needles."""

import bisect
import hashlib
import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from gru_mem_jax.data import files
from gru_mem_jax.data.builders.ruler.fitting import Costs
from gru_mem_jax.data.sentences import split_sentences
from gru_mem_jax.errors import InputError

WHERE = (
    "name a text file, or the PaulGrahamEssays.json that RULER's "
    "scripts/data/synthetic/json/download_paulgraham_essay.py writes "
    "(github.com/NVIDIA/RULER)"
)
# Words of a piece without an end of a sentence.
_MOST_WORDS = 100


class Essay(NamedTuple):
    """A text to hide needles in.

    Attributes:
      path: of its file.
      sentences: in order; a sentence of more than 100 words is divided.
      sha256: of the file.
    """

    path: str
    sentences: tuple[str, ...]
    sha256: str


def read_essay(path: str) -> Essay:
    """Reads plain text, or JSON with the field "text" as RULER's script writes it.

    Raises:
      InputError: it cannot be read, or holds no text; says where one can be had.
    """
    try:
        data = files.read_file(path)
    except InputError as error:
        raise InputError(f"{error}; {WHERE}") from None
    if path.endswith(".json"):
        text = files.field(files.parse_json(data, path), "text", str, path)
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: is not UTF-8 (byte {error.start})") from None
    text = re.sub(r"\s+", " ", text).strip()
    if not text:
        raise InputError(f"{path}: holds no text; {WHERE}")
    pieces = []
    for sentence in split_sentences(text):
        words = sentence.split(" ")
        for i in range(0, len(words), _MOST_WORDS):
            pieces.append(" ".join(words[i : i + _MOST_WORDS]))
    return Essay(path, tuple(pieces), hashlib.sha256(data).hexdigest())


class Haystack:
    """Texts without end: those of a list, again and again.

    Args:
      texts: at least one.
      costs: of texts.
    """

    def __init__(self, texts: Sequence[str], costs: Costs):
        self.texts = texts
        self._sums = [0, *itertools.accumulate(map(costs.of, texts))]

    @property
    def tokens(self) -> int:
        """Of the list."""
        return self._sums[-1]

    def most(self, room: int, start: int = 0) -> int:
        """How many texts, from the one at `start`, have at most `room` tokens."""
        if room <= 0:
            return 0
        turns, rest = divmod(room, self.tokens)
        upto = rest + self._sums[start]
        if upto >= self.tokens:
            more = len(self.texts) + bisect.bisect_right(self._sums, upto - self.tokens)
        else:
            more = bisect.bisect_right(self._sums, upto)
        return turns * len(self.texts) + more - 1 - start
