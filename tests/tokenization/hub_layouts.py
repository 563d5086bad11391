"""Directories laid out as families of checkpoints have them on the hub.

`write(name, folder)` writes the small files of one: tokenizer, roles, template, stop
ids and config.json, in the form that the family's repository has them, around a
tokenizer of some hundred tokens that is made here. No weights: config.json describes a
policy of two layers, for those who want to add some.
"""

import functools
import json
import pathlib

import hub_byte_level
import hub_sentencepiece
from hub_parts import Layout

_MAKERS = {**hub_byte_level.MAKERS, **hub_sentencepiece.MAKERS}
NAMES = tuple(_MAKERS)


def write(name: str, folder: pathlib.Path) -> Layout:
    """Writes the directory of one of NAMES; folders above it are made."""
    made = layout(name)
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in {"tokenizer.json": made.tokenizer, **made.files}.items():
        if isinstance(content, bytes):
            (folder / file).write_bytes(content)
            continue
        text = content
        if not isinstance(content, str):
            text = json.dumps(content, indent=2, ensure_ascii=False)
        (folder / file).write_text(text, encoding="utf-8")
    return made


@functools.cache
def layout(name: str) -> Layout:
    """One of NAMES, made once."""
    return _MAKERS[name]()
