"""Sets of questions on long documents, built from official files or from a seed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "babilong": ["Babilong"],
        "jsonl": ["JsonlDocuments"],
        "long_sets": ["Long2Wiki", "LongHotpotQA", "LongMuSiQue", "LongSQuAD"],
        "recipe": ["Length", "Recipe", "StoredQuestion"],
        "registry": ["RECIPES", "recipe_class"],
        "ruler.recipe": ["Ruler"],
        "store": ["Progress", "build"],
    },
)
