"""A toy world: questions of key-value pairs, an oracle, a tokenizer of whole words.

A policy of half a million parameters learns to read it in minutes on a CPU; only
`gru-mem quickstart`, the default questions of `eval`, and gin files use it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "planted": ["PlantedSource"],
        "sources": ["SyntheticSource", "SyntheticSuite"],
        "start": ["TinyModel", "structured_adamw", "tiny_agent"],
        "structured": ["StructuredConfig", "structured_init"],
        "synthetic": ["SyntheticConfig", "generate"],
        "turns": ["OracleTurns", "TurnConfig"],
    },
)
