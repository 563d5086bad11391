"""Fakes for tests, the library's own and yours; the library never imports them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "byte_tokenizer": ["ByteEncoder"],
        "completion_server": ["CompletionServer", "Fault"],
        "random_turns": ["RandomGenerator", "draw_constrained"],
        "scripted": ["ScriptedGenerator", "prompt_text", "said_in"],
    },
)
