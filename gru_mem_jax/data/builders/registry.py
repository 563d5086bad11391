"""The recipes that `gru-mem data build` knows by name."""

from typing import Any

from gru_mem_jax.errors import InputError
from gru_mem_jax.records import did_you_mean

# The class of each, in `gru_mem_jax.data.builders`; its fields are what can be set.
RECIPES = {
    "long_hotpotqa": "LongHotpotQA",
    "long_2wiki": "Long2Wiki",
    "long_musique": "LongMuSiQue",
    "long_squad": "LongSQuAD",
    "ruler": "Ruler",
    "babilong": "Babilong",
    "jsonl": "JsonlDocuments",
}


def recipe_class(name: str) -> Any:
    """The class of a recipe, which takes its settings by keyword.

    Raises:
      InputError: there is none of this name.
    """
    from gru_mem_jax.data import builders

    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r:.80}{did_you_mean(name, RECIPES)}")
    return getattr(builders, RECIPES[name])
