"""`gru-mem env --policy`: the facts of a policy directory, and their files."""

from collections.abc import Iterator
from typing import Any

from gru_mem_jax.records import cut

_LONGEST = 400  # characters of a template that are shown


def policy_environment(location: str) -> dict[str, Any]:
    """Family, stop ids, roles and template, each with its file; JSON-ready.

    Parts that cannot be read are replaced by their error.

    Raises:
      PolicyError: there is no such directory.
    """
    from gru_mem_jax.errors import GRUMemError
    from gru_mem_jax.policy.files import open_policy_dir, tokenizer_files

    files = open_policy_dir(location)
    found: dict[str, Any] = {"directory": str(files.root), "commit": files.commit}
    for name, read in (
        ("family", _family),
        ("files", lambda files: sorted(tokenizer_files(files))),
        ("tokenizer", _tokenizer),
    ):
        try:
            found[name] = read(files)
        except GRUMemError as error:
            found[name] = {"error": str(error)}
    return found


def lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, text) to print of what `policy_environment` found."""
    yield "policy", found["directory"] + (f" @ {c}" if (c := found["commit"]) else "")
    for name in ("family", "files"):
        value = found[name]
        text = ", ".join(value) if isinstance(value, list) else value
        yield name, text if isinstance(text, str) else f"failed: {text['error']}"
    facts = found["tokenizer"]
    if "error" in facts:
        yield "tokenizer", f"failed: {facts['error']}"
        return
    for stop in facts["stop_ids"]:
        yield "stop id", f"{stop['id']} {stop['token']!r} ({', '.join(stop['from'])})"
    for role, token in facts["roles"].items():
        yield "role", f"{role} {token['token']!r} ({token['from']})"
    yield "template", facts["template"]["from"] or "none"
    if facts["template"]["text"] is not None:
        yield "", repr(cut(facts["template"]["text"], _LONGEST))
        if facts["template"]["content_parts"]:
            yield "", "content is given as a list of parts"
    yield "opened", repr(facts["opened"]) if facts["opened"] else "nothing"
    if facts["template_variables"]:
        yield "variables", repr(facts["template_variables"])
    for warning in facts["warnings"]:
        yield "warning", warning


def _family(files: Any) -> str:
    from gru_mem_jax.policy.hf import load_config

    load_config(files)
    return files.read_json("config.json")["model_type"]


def _tokenizer(files: Any) -> dict[str, Any]:
    from gru_mem_jax.agent.prompts import PromptBuilder
    from gru_mem_jax.policy.agent_settings import policy_settings
    from gru_mem_jax.tokenization import TextTokenizer
    from gru_mem_jax.tokenization.directory import read_parts

    parts = read_parts(files)
    encoder = TextTokenizer.from_parts(parts)
    prompt = policy_settings(files).prompt
    warnings, opened = list(parts.warnings), ""
    if parts.template is None:
        warnings.append("no chat template: no prompt can be made")
    else:
        opened = PromptBuilder(encoder, prompt).opened
    eos = parts.special_tokens.get("eos_token")
    stops = []
    for id_ in encoder.stop_ids:
        token = encoder.decode([id_])
        sources = [parts.stop_file] if id_ in parts.stop_ids else []
        if token == eos:
            sources.append(f"eos_token of {parts.role_files['eos_token']}")
        sources = sources or [f"{parts.template_file} ends an assistant's text with it"]
        stops.append({"id": id_, "token": token, "from": sources})
    return {
        "stop_ids": stops,
        "roles": {
            role: {"token": token, "from": parts.role_files[role]}
            for role, token in parts.special_tokens.items()
        },
        "template": {
            "from": parts.template_file,
            "text": parts.template,
            "content_parts": encoder.content_parts,
        },
        "opened": opened,
        "template_variables": dict(prompt.template_variables),
        "warnings": warnings,
    }
