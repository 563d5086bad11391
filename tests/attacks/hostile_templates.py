"""Chat templates that lose what they are given, never end, or reach out."""

_LOOP = "{% for m in messages %}%s{% endfor %}assistant:"


def _shows(expression: str) -> str:
    return _LOOP.replace("%s", "{{ " + expression + " }}")


# What a prompt builder must refuse: the template, and a part of the message.
LOSSY = {
    "drops": (_shows("m.role"), "the question 0 times"),
    "cuts": (_shows("m.content[:30]"), "0 times"),
    "doubles": (_shows("m.content + m.content"), "the question 2 times"),
    "escapes": (_shows("m.content | tojson(ensure_ascii=True)"), "0 times"),
    "keeps_ascii": (_shows("m.content | urlencode"), "0 times"),
    "reorders": (
        _shows("m.content.split('<section>') | reverse | join('<section>')"),
        "reorders the user's message to chunk, question, memory",
    ),
}

# What must be refused when it is rendered: the template, and a part of the message.
DANGEROUS = {
    "endless": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in "
        "range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
        "limit of",
    ),
    "huge": ("{{ 'A' * 10**10 }}", "MemoryError|limit of|OverflowError"),
    "large": ("{{ 'A' * 2 * 10**6 }}", "more than 1000000 characters"),
    "drip": (
        "{% for a in range(9999) %}{% for b in range(9999) %}{{ 'AAAAAAAA' }}"
        "{% endfor %}{% endfor %}",
        "more than 1000000 characters",
    ),
    "doubling": (
        "{% set n = namespace(s='A') %}{% for i in range(60) %}"
        "{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
        "MemoryError|limit of",
    ),
    "padding": ("{{ '%10000000000d' | format(1) }}", "MemoryError|limit of|Overflow"),
    "recursion": (
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "RecursionError|limit of",
    ),
    "power": ("{{ 9**(9**9) }}", "limit of|MemoryError|OverflowError"),
    "insides": (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "SecurityError|UndefinedError",
    ),
    "globals": (
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "SecurityError|UndefinedError",
    ),
    "file": ("{% include '/etc/passwd' %}", "fails"),
    "import": ("{% import 'os' as os %}{{ os }}", "fails"),
    "syntax": ("{% for %}", "TemplateSyntaxError"),
    "refusal": ("{{ raise_exception('no system role') }}", "no system role"),
    "mutates": ("{% set _ = messages.clear() %}", "SecurityError"),
    "nonsense": ("{{ messages.content.deeper }}", "UndefinedError"),
}
