"""Makes the golden files: logits and greedy tokens of Hugging Face torch.

    python tests/policy/make_goldens.py

Needs torch; the tests that read the files do not. Run it again after a change of
`hf_cases` or `golden_weights`; transformers' version is kept in each file.
"""

import json

import golden_weights
import numpy as np
import torch
import transformers
from hf_cases import CASES, LENGTH, VOCAB

NEW_TOKENS = 64
KEPT = slice(0, None, 9)  # positions whose logits are stored


def main() -> None:
    golden_weights.GOLDENS.mkdir(exist_ok=True)
    for case, fields in CASES.items():
        make(case, dict(fields))
        print(case)


def make(case: str, fields: dict) -> None:
    model_type = fields.pop("model_type")
    config = transformers.AutoConfig.for_model(model_type, **fields)
    config.architectures = [
        transformers.AutoModelForCausalLM._model_mapping[type(config)].__name__
    ]
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    tied = config.tie_word_embeddings
    shapes = {
        name: list(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    for name, parameter in model.named_parameters():
        centre = golden_weights.centre(name, model_type)
        value = golden_weights.weight(name, tuple(parameter.shape), centre)
        parameter.data.copy_(torch.from_numpy(value))
    tokens = np.random.default_rng(0).integers(3, VOCAB, (2, LENGTH))
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens)).logits.numpy()
        greedy = model.generate(
            torch.from_numpy(tokens[:1, :20]),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        ).numpy()[:, 20:]
    record = {
        "transformers": transformers.__version__,
        "config": json.loads(config.to_json_string()),
        "shapes": shapes,
    }
    text = json.dumps(record, indent=1) + "\n"
    (golden_weights.GOLDENS / f"{case}.json").write_text(text)
    np.savez_compressed(
        golden_weights.GOLDENS / f"{case}.npz",
        tokens=tokens.astype(np.int32),
        kept=np.arange(LENGTH)[KEPT],
        logits=logits[:, KEPT],
        greedy=greedy.astype(np.int32),
    )


if __name__ == "__main__":
    main()
