"""Merges of byte pair encodings: as a GGUF file lists them, or from its vocabulary."""

import pathlib
from typing import Any

from gru_mem_jax.errors import PolicyError

_MAX_MERGES = 1 << 21  # Gemma's largest vocabulary has half a million


def parsed_merges(
    merges: list[Any], vocab: dict[str, int], path: pathlib.Path
) -> list[list[str]]:
    """The pairs of merges that are given as "left right".

    Raises:
      PolicyError: one is no pair, or not of the vocabulary.
    """
    found = []
    for number, merge in enumerate(merges):
        left, space, right = str(merge).partition(" ")
        if " " in right:  # a word with a space in it: the first cut that gives words
            cuts = (i for i, letter in enumerate(merge) if letter == " ")
            pairs = ((merge[:i], merge[i + 1 :]) for i in cuts)
            left, right = next(
                (pair for pair in pairs if pair[0] in vocab and pair[1] in vocab),
                (left, right),
            )
        known = left in vocab and right in vocab and left + right in vocab
        if not space or not known:
            raise PolicyError(
                f"{path}: merge {number}, {str(merge)[:60]!r}: expected two tokens "
                "with a space between, which together are a token"
            )
        found.append([left, right])
    return found


def derived_merges(
    vocab: dict[str, int], scores: list[float] | None, path: pathlib.Path
) -> list[tuple[str, str]]:
    """Merges that encode as SentencePiece does: the best word that can be made first.

    As in transformers: every cut of a word into two words, ordered by the whole's score
    (higher first), then by the length of its parts (longer first).

    Args:
      vocab: ids by word, 0, 1, 2, ...
      scores: of the words; None: earlier words are better.
      path: of the file, for messages.

    Raises:
      PolicyError: there are too many.
    """
    found = []
    for word, index in vocab.items():
        score = -index if scores is None else scores[index]
        cuts = (
            (vocab[word[:i]], vocab[word[i:]], i)
            for i in range(1, len(word))
            if word[:i] in vocab and word[i:] in vocab
        )
        found += [(score, i, len(word) - i, word) for *_, i in sorted(cuts)]
        if len(found) > _MAX_MERGES:
            raise PolicyError(
                f"{path}: its vocabulary gives more than {_MAX_MERGES} merges"
            )
    found.sort(key=lambda cut: cut[:3], reverse=True)
    return [(word[:i], word[i:]) for _, i, _, word in found]
