"""The files of a directory that define its tokenizer, each read as in transformers.

| what | from, the first that has it |
|---|---|
| template | chat_template.jinja and additional_chat_templates/, by name "default"; tokenizer_config.json; chat_template.json |
| roles | special_tokens_map.json, unless tokenizer_config.json has added_tokens_decoder; tokenizer_config.json; the class |
| added tokens | added_tokens_decoder, else added_tokens.json; tokenizer.json; last tokens that have a role and no id yet |
| stop ids | generation_config.json, else config.json; `TextTokenizer` adds more |
| splitting of text | the class that config.json and tokenizer_config.json name, if it is one of `classes`; tokenizer.json |
"""  # noqa: E501  (a table)

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.policy.files import CONFIG, PolicyDir
from gru_mem_jax.policy.generation import GENERATION
from gru_mem_jax.tokenization.classes import ROLES, as_class, tokenizer_class
from gru_mem_jax.tokenization.mistral import with_right_split

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
TEMPLATE = "chat_template.jinja"
TEMPLATE_JSON = "chat_template.json"
# Errors of reading a hostile JSON file.
BROKEN = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
# Roles without an id get one in this order.
_ROLES = tuple(
    f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
_OTHER_FORMS = ("tokenizer.model", "tekken.json", "tiktoken.model", "vocab.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerParts:
    """The tokenizer of a directory.

    Attributes:
      tokenizer: tokenizer.json, with the added tokens that other files have.
      template: source of the chat template; None if there is none.
      template_file: its file.
      special_tokens: tokens by role: {"eos_token": "<|im_end|>", ...}.
      role_files: the file of each.
      control: tokens that are listed as special, without a role.
      stop_ids: ids that end a completion, the template's and eos_token's aside.
      stop_file: their file.
      warnings: a line for each entry that is ignored.
    """

    tokenizer: Mapping[str, Any]
    template: str | None = None
    template_file: str | None = None
    special_tokens: Mapping[str, str]
    role_files: Mapping[str, str]
    control: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    stop_file: str | None = None
    warnings: tuple[str, ...] = ()


def read_parts(files: PolicyDir) -> TokenizerParts:
    """Reads all files that decide ids, roles, stop ids or the template.

    Raises:
      PolicyError: a file is missing or broken; names it.
    """
    tokenizer = files.read_json(TOKENIZER)
    if tokenizer is None:
        raise PolicyError(f"{files.root}: no {TOKENIZER}; {_how_to_convert(files)}")
    config = files.read_json(TOKENIZER_CONFIG) or {}
    warnings: list[str] = []
    template, template_file = _template(files, config, warnings)
    model = files.read_json(CONFIG) or {}
    try:
        name = tokenizer_class(tokenizer, config, model)
        roles, role_files, extra = _roles(files, config, warnings)
        if name is not None:
            _add_defaults(name, tokenizer, roles, role_files)
            unk = roles.get("unk_token", ROLES[name]["unk"])
            tokenizer = as_class(name, tokenizer, config, unk)
        ordered = sorted(roles, key=lambda r: _ROLES.index(r) if r in _ROLES else 99)
        named = list(dict.fromkeys([*(roles[role] for role in ordered), *extra]))
        listed = _listed(files, config, named)
        tokenizer = _with_added_tokens(tokenizer, listed, named, warnings)
        tokenizer, warning = with_right_split(tokenizer, config, model)
        warnings += [warning] if warning else []
    except BROKEN as error:
        raise PolicyError(
            f"{files.root}: {TOKENIZER}, or the tokens that {TOKENIZER_CONFIG} and "
            f"others add, is broken: {type(error).__name__}: {error}"
        ) from None
    stop_ids, stop_file = _stop_ids(files, model)
    return TokenizerParts(
        tokenizer=tokenizer,
        template=template,
        template_file=template_file,
        special_tokens=roles,
        role_files={role: role_files[role] for role in roles},
        control=tuple(extra),
        stop_ids=stop_ids,
        stop_file=stop_file,
        warnings=tuple(warnings),
    )


def special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Tokens by role of a configuration, as strings or objects with their content."""
    tokens = {k: _text_of(v) for k, v in config.items() if k.endswith("_token")}
    return {k: v for k, v in tokens.items() if v is not None}


def default_template(template: Any, where: str) -> str | None:
    """The template named "default" where several are given by name, else the one.

    Raises:
      PolicyError: it is not text, or none of several is the default.
    """
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if type(t) is dict}
        template = _default(named, where)
    elif isinstance(template, Mapping):
        template = _default(template, where)
    if template is not None and not isinstance(template, str):
        raise PolicyError(f"{where}: chat_template must be text")
    return template


def _default(named: Mapping[Any, Any], where: str) -> Any:
    if "default" not in named:
        names = ", ".join(sorted(map(str, named))) or "nothing"
        raise PolicyError(
            f"{where}: several chat templates and none named default, which is the one "
            f"that is used; found {names:.200}"
        )
    return named["default"]


def _template(
    files: PolicyDir, config: Mapping[str, Any], warnings: list[str]
) -> tuple[str | None, str | None]:
    """The chat template, and the file that it is from."""
    texts = {}  # by name: (text, file)
    if (text := files.read_text(TEMPLATE)) is not None:
        texts["default"] = (text, TEMPLATE)
    for file in files.extra_templates():
        name = file.rpartition("/")[2].removesuffix(".jinja")
        texts[name] = (files.read_text(file), file)
    found = []
    if texts:
        where = f"{files.root}: {TEMPLATE} and additional_chat_templates"
        found.append(_default(texts, where))
    else:
        # The configuration's templates are read only where no file has any.
        where = f"{files.root}: {TOKENIZER_CONFIG}"
        text = default_template(config.get("chat_template"), where)
        found += [] if text is None else [(text, TOKENIZER_CONFIG)]
    # A processor's: transformers' tokenizers do not read this file.
    record = files.read_json(TEMPLATE_JSON) or {}
    where = f"{files.root}: {TEMPLATE_JSON}"
    text = default_template(record.get("chat_template"), where)
    found += [] if text is None else [(text, TEMPLATE_JSON)]
    if len(found) > 1 and found[0][0] != found[1][0]:
        warnings.append(
            f"{found[1][1]} has another chat template than {found[0][1]}, which is used"
        )
    return found[0] if found else (None, None)


def _roles(
    files: PolicyDir, config: Mapping[str, Any], warnings: list[str]
) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Tokens by role, the file of each, and tokens that are special without one."""
    roles = special_tokens(config)
    # Roles that are set to null too.
    where = dict.fromkeys((k for k in config if k.endswith("_token")), TOKENIZER_CONFIG)
    given = config.get("extra_special_tokens") or config.get(
        "additional_special_tokens"
    )
    extra = _take_extra(given, roles, where, TOKENIZER_CONFIG)
    extra += [t for t in map(_text_of, config.get("chat_control_tokens") or ()) if t]
    mapped = files.read_json(SPECIAL_TOKENS_MAP) or {}
    if "added_tokens_decoder" not in config:
        for name, value in mapped.items():
            if name in ("extra_special_tokens", "additional_special_tokens"):
                extra += _take_extra(value, roles, where, SPECIAL_TOKENS_MAP)
            elif name.endswith("_token"):
                roles.pop(name, None)
                where[name] = SPECIAL_TOKENS_MAP
                if (text := _text_of(value)) is not None:
                    roles[name] = text
    else:
        for name, text in special_tokens(mapped).items():
            if roles.get(name) != text:
                warnings.append(
                    f"{SPECIAL_TOKENS_MAP}: {name} {text!r} is ignored, since "
                    f"{TOKENIZER_CONFIG} has added_tokens_decoder"
                )
    return roles, where, list(dict.fromkeys(extra))


def _add_defaults(
    name: str,
    tokenizer: Mapping[str, Any],
    roles: dict[str, str],
    where: dict[str, str],
) -> None:
    """Adds a class's default roles that no file sets.

    Only existing tokens: transformers would add new ones, without weights.
    """
    there = {*tokenizer["model"]["vocab"]}
    there.update(token["content"] for token in tokenizer["added_tokens"])
    for short, token in ROLES[name].items():
        role = f"{short}_token"
        if role not in where and token in there:
            roles[role], where[role] = token, f"transformers' {name}"


def _take_extra(
    given: Any, roles: dict[str, str], where: dict[str, str], file: str
) -> list[str]:
    """Special tokens of a list; tokens given by name become roles."""
    if isinstance(given, Mapping):
        for name, value in given.items():
            if (text := _text_of(value)) is not None:
                roles[name], where[name] = text, file
        return []
    return [text for token in given or () if (text := _text_of(token))]


def _listed(
    files: PolicyDir, config: Mapping[str, Any], special: Iterable[str]
) -> list[dict[str, Any]]:
    """Added tokens of files other than tokenizer.json, in order of their ids."""
    if "added_tokens_decoder" in config:
        decoder = config["added_tokens_decoder"] or {}
        tokens = [{**token, "id": int(i)} for i, token in decoder.items()]
    else:
        added = files.read_json(ADDED_TOKENS) or {}
        named = set(special)
        tokens = [
            {"content": text, "id": _checked_id(id_), "special": text in named}
            for text, id_ in added.items()
        ]
    return sorted(tokens, key=lambda token: token["id"])


def _with_added_tokens(
    tokenizer: Mapping[str, Any],
    listed: Iterable[Mapping[str, Any]],
    named: Iterable[str],
    warnings: list[str],
) -> dict[str, Any]:
    """The tokenizer.json with the listed tokens, and those with a role but no id.

    The options of the list have precedence, the ids of tokenizer.json too. New tokens
    get the next ids, whatever is listed, as in the tokenizers library.
    """
    vocab = tokenizer["model"]["vocab"]
    tokens = {token["content"]: token for token in tokenizer["added_tokens"]}
    added = [dict(token) for token in listed]
    has = {*tokens, *(token["content"] for token in added)}
    added += [{"content": c, "special": True} for c in named if c not in has]
    for token in added:
        content = token["content"]
        special = token.setdefault("special", False)
        wanted = token.pop("id", None)
        if content in tokens:
            id_ = tokens[content]["id"]
        elif content in vocab:
            id_ = vocab[content]
        else:
            largest = max((t["id"] for t in tokens.values()), default=-1)
            id_ = largest + 1 if largest >= len(vocab) else len(vocab)
        if wanted not in (None, id_):
            warnings.append(
                f"added token {content!r} is listed with id {wanted} and has {id_}"
            )
        options = {name: token.get(name, False) for name in _OPTIONS}
        options["normalized"] = token.get("normalized", not special)
        tokens[content] = {
            "id": id_,
            "content": content,
            **options,
            "special": special,
        }
    ordered = sorted(tokens.values(), key=lambda token: token["id"])
    return {**tokenizer, "added_tokens": ordered}


_OPTIONS = ("single_word", "lstrip", "rstrip", "normalized")


def _stop_ids(
    files: PolicyDir, config: Mapping[str, Any]
) -> tuple[tuple[int, ...], str | None]:
    """The ids at which transformers' `generate` stops, and their file."""
    generation = files.read_json(GENERATION) or {}
    if ids := _as_ids(generation.get("eos_token_id")):
        return ids, GENERATION
    inner = config.get("text_config")
    for record in (config, inner if isinstance(inner, dict) else {}):
        if ids := _as_ids(record.get("eos_token_id")):
            return ids, CONFIG
    return (), None


def _as_ids(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(v for v in values if type(v) is int)


def _checked_id(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{ADDED_TOKENS}: an id is {value!r:.40}")
    return value


def _text_of(token: Any) -> str | None:
    """The text of a token, which is a string, or an object with its content."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) and token else None


def _how_to_convert(files: PolicyDir) -> str:
    found = [name for name in _OTHER_FORMS if (files.root / name).is_file()]
    how = "save it with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
    if not found:
        return how
    return f"{found[0]} is there, and must be converted: {how}, with transformers"
