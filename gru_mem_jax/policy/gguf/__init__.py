"""GGUF files (llama.cpp, ollama) as Hugging Face directories, without torch and jax.

The header is read by a scan of our own, which checks every count and size before
memory is taken; the gguf package knows tensor names and quantisations, and dequantises.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "header": ["GGUFHeader", "GGUFTensor", "read_header"],
        "importing": ["Imported", "import_gguf"],
    },
)
