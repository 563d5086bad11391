"""generation_config.json: how a policy samples by default.

The file is kept unchanged in checkpoints and exports. Read from it are `do_sample`,
`temperature`, `top_k` and `top_p`, and, by the tokenizer, the stop ids. Other settings
that change sampling (e.g. a repetition penalty) are kept for other programs and not
applied here.
"""

from typing import Any

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.policy.checks import check_bool, check_number
from gru_mem_jax.policy.files import PolicyDir

GENERATION = "generation_config.json"


def sampling_defaults(directory: PolicyDir) -> dict[str, Any]:
    """Fields of SamplingConfig that generation_config.json sets.

    `do_sample` false is temperature 0; a top_k below 1 keeps all tokens. Keys that the
    file lacks are absent.

    Raises:
      PolicyError: a value of another type, or out of range.
    """
    record = directory.read_json(GENERATION) or {}
    given = {name: value for name, value in record.items() if value is not None}
    found: dict[str, Any] = {}
    try:
        check_bool("do_sample", sampled := given.get("do_sample", True))
        if not sampled:
            return {"temperature": 0.0}
        if "temperature" in given:
            check_number("temperature", given["temperature"], low=0.0, high=100.0)
            found["temperature"] = given["temperature"]
        if "top_p" in given:
            top_p = given["top_p"]
            check_number("top_p", top_p, low=0.0, high=1.0, open_low=True)
            found["top_p"] = top_p
        if "top_k" in given:
            check_number("top_k", given["top_k"], low=-1, integer=True)
            found["top_k"] = max(0, given["top_k"])
    except PolicyError as error:
        raise PolicyError(f"{directory.root / GENERATION}: {error}") from None
    return found
