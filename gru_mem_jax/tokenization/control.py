"""Which tokens are control, and a tokenizer without them.

Control tokens steer a model:

- special tokens, and tokens that have a role (eos_token, ...) or are listed as special;
- tokens in the text of the chat template;
- added tokens of the form `<...>` or `[...]`, special or not (`<tool_call>`, `<think>`,
  `<|fim_prefix|>`, `<unused7>`), except elements of HTML (`<h1>`, `</td>`): Gemma
  lists those as added because documents contain them.

Other added tokens are text: Gemma lists line breaks and runs of spaces as added. So
HTML has the ids of transformers, and no text encodes to a marker of a template.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

_MARKER = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
# Elements that mark up text. Elements of page layout are not listed: prompts have
# sections and answers of their own.
_HTML = re.compile(
    r"</?(?:table|caption|colgroup|col|thead|tbody|tfoot|tr|th|td|h[1-6]|p|br|hr|"
    r"ul|ol|li|dl|dt|dd|blockquote|q|pre|code|kbd|samp|var|tt|strong|em|b|i|u|s|del|ins|"
    r"mark|small|big|sub|sup|span|div|a|img|strike|center|font|html|head|body|title)/?>"
)

_CODE = re.compile(r"\{[{%#].*?[}%#]\}", re.DOTALL)
_STRING = re.compile(r"'([^']*)'|\"([^\"]*)\"")


def vocabulary(data: Mapping[str, Any]) -> dict[str, int]:
    """All tokens of a tokenizer.json with their ids, added ones included."""
    added = {token["content"]: token["id"] for token in data["added_tokens"]}
    return {**added, **data["model"]["vocab"]}


def control_tokens(
    data: Mapping[str, Any], named: Iterable[str], used: Iterable[str], rendered: str
) -> frozenset[str]:
    """The control tokens of a tokenizer.

    Args:
      data: the parsed tokenizer.json.
      named: tokens that have a role by name (eos_token, bos_token, ...).
      used: tokens in the text of the chat template.
      rendered: an empty message, rendered by it; a base-vocabulary entry of the form
        `<...>` or `[...]` in it is a marker too.
    """
    used = set(used)
    control = set(named)
    for token in data["added_tokens"]:
        text = token["content"].strip()
        bracketed = len(text) > 2 and text[0] + text[-1] in ("<>", "[]")
        bracketed = bracketed and not _HTML.fullmatch(text)
        if token["special"] or bracketed or (text and token["content"] in used):
            control.add(token["content"])
    control.update(_MARKER.findall(rendered))
    return frozenset(control & vocabulary(data).keys())


def template_literals(template: str) -> list[str]:
    """The text that a chat template may emit: outside of code, and strings in code."""
    code = _CODE.findall(template)
    strings = (a or b for part in code for a, b in _STRING.findall(part))
    return [*_CODE.split(template), *strings]


def with_fixed_ids(data: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer.json whose added tokens keep their ids when others are removed.

    An added token's id is otherwise its place in the list.
    """
    model = {**data["model"], "vocab": {**data["model"]["vocab"]}, "dropout": None}
    for token in data["added_tokens"]:
        model["vocab"].setdefault(token["content"], token["id"])
    return {
        **data,
        "model": model,
        "truncation": None,
        "padding": None,
        # It would add special tokens, and cut spaces from offsets.
        "post_processor": None,
    }


def without_prefix(data: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer.json for text within a prompt.

    Without the space that some tokenizers add before a text: sentencepiece's dummy
    prefix, add_prefix_space of byte-level ones.
    """
    parts = ("normalizer", "pre_tokenizer")
    return {**data, **{name: _unprefixed(data.get(name)) for name in parts}}


def _unprefixed(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Prepend":
        return None
    part = dict(part)
    for name in ("normalizers", "pretokenizers"):
        if isinstance(part.get(name), list):
            inner = (_unprefixed(p) for p in part[name])
            part[name] = [p for p in inner if p is not None]
    if part.get("add_prefix_space"):
        part["add_prefix_space"] = False
    if part.get("prepend_scheme") in ("first", "always"):
        part["prepend_scheme"] = "never"
    return part


def without_tokens(data: Mapping[str, Any], control: frozenset[str]) -> dict[str, Any]:
    """A tokenizer.json that never gives these tokens, and is otherwise the same.

    They are removed from the list of added tokens, and from the base vocabulary, where
    some tokenizers have them too.
    """
    model = data["model"]
    # The model refers to its unknown token by name.
    gone = control - {model.get("unk_token")}
    changed = {"vocab": {k: v for k, v in model["vocab"].items() if k not in gone}}
    if model.get("merges"):
        changed["merges"] = [m for m in model["merges"] if not _touches(m, gone)]
    kept = [t for t in data["added_tokens"] if t["content"] not in control]
    return {**data, "added_tokens": kept, "model": {**model, **changed}}


def _touches(merge: str | list[str], gone: frozenset[str]) -> bool:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left in gone or right in gone or left + right in gone
