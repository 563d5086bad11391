"""Renders a chat template: run as a program of its own, see chat_template.py.

A template is an untrusted program. Jinja's sandbox keeps it from Python's internals;
the operating system limits memory and time. Reads one JSON object from stdin
("template", "variables", "date", "max_characters", "max_seconds", "max_bytes") and
writes one to stdout: {"text": ...} or {"error": ...}.
"""

import datetime
import json
import sys


def _limit_resources(max_seconds: int, max_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # no such limits on this system; the parent has a time limit
        return
    for kind, limit in (
        (resource.RLIMIT_AS, max_bytes),
        (resource.RLIMIT_CPU, max_seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


def _environment(date: str):
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """{% generation %} marks the assistant's text for training: shown as it is."""

        tags = frozenset({"generation"})

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    def to_json(value, ensure_ascii=False, indent=None, separators=None, **options):
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=options.get("sort_keys", False),
        )

    # The options and names of transformers, which templates are written for.
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = datetime.date.fromisoformat(date).strftime
    return environment


def _render(job: dict) -> str:
    template = _environment(job["date"]).from_string(job["template"])
    parts, length = [], 0
    for part in template.generate(**job["variables"]):
        length += len(part)
        if length > job["max_characters"]:
            raise OverflowError(f"more than {job['max_characters']} characters")
        parts.append(part)
    return "".join(parts)


def main() -> None:
    """One job from stdin to stdout."""
    job = json.load(sys.stdin)
    _limit_resources(job["max_seconds"], job["max_bytes"])
    try:
        result = {"text": _render(job)}
    except Exception as error:  # reported, whatever a template raises
        result = {"error": f"{type(error).__name__}: {error}"[:500]}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
