"""The form of a constrained completion, as an automaton over token ids."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "automaton": [
            "Constraint",
            "TokenGrammar",
            "walk",
        ],
        "compiling": ["compile_forms"],
        "forms": ["Box", "Choice", "Form", "Free", "Text"],
    },
)
