"""Lengths as people write them: 7K, 50, 50 documents."""

import re
from typing import cast

from gru_mem_jax.data.builders.recipe import Length, Unit
from gru_mem_jax.errors import InputError

_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20}
_LENGTH = re.compile(r"\s*(\d{1,9})\s*([KM]?)\s*(documents|tokens|chunks)?\s*")
# The paper's (arXiv 2602.10560): 7K tokens are 50 of HotpotQA's paragraphs, and so on;
# MemAgent's token counts of them are 7K to 896K (6,400 have 903K on average).
PAPER_LENGTHS = ("7K", "14K", "28K", "56K", "112K", "224K", "448K", "896K")
_TOKENS, _DOCUMENTS = 7 << 10, 50


def parse_length(text: str, unit: Unit) -> Length:
    """A length from text.

    Args:
      text: "7K" and "1M" are tokens (K = 1,024); "50" is in `unit`; "50 documents",
        "4096 tokens" and "32 chunks" say their own.
      unit: of a number alone.

    Raises:
      InputError: it is written otherwise, or is 0.
    """
    match = _LENGTH.fullmatch(text)
    number, factor, own = match.groups() if match else ("0", "", None)
    count = int(number) * _FACTORS[factor]
    if not count or (factor and own not in (None, "tokens")):
        raise InputError(
            f"--lengths: expected such as 7K (tokens), 50 or '50 documents', got "
            f"{text!r:.40}"
        )
    return Length(cast(Unit, own) if own else "tokens" if factor else unit, count)


def in_documents(length: Length) -> Length:
    """Tokens as paragraphs of HotpotQA, by the field's protocol: 7K are 50.

    Lengths in between are rounded down, to at least one paragraph.
    """
    if length.unit != "tokens":
        return length
    return Length("documents", max(1, length.count * _DOCUMENTS // _TOKENS))


def label(length: Length) -> str:
    """As tables show it: "7K", "50 documents", "4000 tokens"."""
    if length.unit == "tokens" and length.count % 1024 == 0:
        return f"{length.count // 1024}K"
    return str(length)
