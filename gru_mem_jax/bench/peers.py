"""The benchmark's peer: Hugging Face `generate` on a policy directory, timed.

Run as `python -m gru_mem_jax.bench.peers DIR DTYPE THREADS`: reads one JSON
object a line (`batch`, `prompt_tokens`, `new_tokens`, `seed`) and answers each with
`prefill_seconds` (until the first new token), `decode_seconds` (from there to the last)
and `peak_rss_mb`. Greedy, so that sampling costs neither side anything.
"""

import json
import sys
import time

from gru_mem_jax.bench.sampling import peak_rss_mb
from gru_mem_jax.errors import InputError


def main(directory: str, dtype: str, threads: str) -> int:
    """Serves until stdin ends; returns the exit status."""
    try:
        import torch
        import transformers
    except ImportError:
        sys.stderr.write(
            "the peer huggingface needs torch: pip install 'gru_mem_jax[parity]'\n"
        )
        return InputError.exit_status
    torch.set_num_threads(int(threads))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=getattr(torch, dtype),
        local_files_only=True,
        trust_remote_code=False,
    ).eval()
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, pad_token_id=0
    )
    for line in sys.stdin:
        answer = _time(torch, model, **json.loads(line))
        answer["peak_rss_mb"] = peak_rss_mb()
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return 0


def _time(torch, model, batch, prompt_tokens, new_tokens, seed) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, prompt_tokens)
    ids = torch.randint(0, model.config.vocab_size, shape, generator=generator)
    ends = []

    def never(ids, scores, **kwargs):  # called after each token: a clock
        ends.append(time.perf_counter())
        return torch.zeros(len(ids), dtype=torch.bool)

    with torch.inference_mode():
        start = time.perf_counter()
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            stopping_criteria=[never],
        )
    if len(ends) != new_tokens:
        raise RuntimeError(f"generate gave {len(ends)} tokens, not {new_tokens}")
    return {"prefill_seconds": ends[0] - start, "decode_seconds": ends[-1] - ends[0]}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
