"""A policy directory through a run's checkpoints, a resume and an export, compared.

    python tests/policy/round_trip.py DIRECTORY ...

prints for each directory what is equal before and after (no weight is trained: what a
run changes are the weights alone).
"""

import dataclasses
import pathlib
import sys
import tempfile
import warnings

import jax
import numpy as np

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.prompts import PromptConfig
from gru_mem_jax.policy.agent_settings import policy_settings
from gru_mem_jax.policy.files import open_policy_dir, tokenizer_files
from gru_mem_jax.policy.hf import load_policy
from gru_mem_jax.rl.compile import compile_learner
from gru_mem_jax.rl.optimizer import LearnerConfig
from gru_mem_jax.runs.checkpoints.manager import Checkpoints
from gru_mem_jax.runs.checkpoints.store import RunState
from gru_mem_jax.runs.export import export_run
from gru_mem_jax.runs.folder import RunFolder
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.tiny.sources import SyntheticSource
from gru_mem_jax.tokenization import TextTokenizer
from gru_mem_jax.train import run as run_module
from gru_mem_jax.train.config import TrainConfig

TEXTS = (
    "The code for heron is amber.\n\n  <h1>It's 42,5 °C</h1>\t<|im_end|> </s> [INST]",
    "Ünïcode 漢字 🙂 <think>a</think><eos><|eot_id|>",
)
MESSAGES = [{"role": "user", "content": "Which code belongs to heron?"}]
AGENT = AgentConfig(
    chunk_size=64,
    question_tokens=64,
    memory_tokens=64,
    completion_tokens=16,
    prompt_tokens=1600,
    prompt=PromptConfig(style="compact"),
)


def settings_of(lora=None) -> TrainConfig:
    return TrainConfig(
        agent=AGENT,
        source=SyntheticSource(),
        learner=LearnerConfig(row_tokens=2048, rows_per_device=1, lora=lora),
        engine=EngineConfig(slots=1, max_length=2048),
    )


def start(source, folder, lora=None) -> bool | None:
    """Starts the run in `folder`, or resumes it, and saves one step more.

    Returns:
      Whether the resumed arrays equal the policy's; None if there were none.
    """
    settings = settings_of(lora)
    settings = dataclasses.replace(
        settings, loop=dataclasses.replace(settings.loop, policy=str(source))
    )
    call = run_module._Run(settings, folder / "run", "", "", False, quiet=True)
    planned = call._planned
    learner = compile_learner(
        planned.policy, settings.objective, settings.learner, planned.mesh
    )
    run = RunFolder.open(folder / "run", command=(), config_text="", environment={})
    with run, Checkpoints(run.checkpoints) as checkpoints:
        store = call._store(run, learner, checkpoints)
        progress, _ = store.restore()
        state = learner.init(learner.put(load_policy(source, "float32")[1]))
        equal, step = None, 1
        if progress is not None:
            equal, step = _same(progress.state.params, state.params), progress.step + 1
            state = progress.state
        store.save(RunState(step=step, state=state, position=step), wait=True)
    return equal


def through_a_run(source, folder, *, lora=None, **export) -> tuple[pathlib.Path, bool]:
    """Saves the policy as step 1 of a run, resumes from it, saves, exports.

    Returns:
      The export, and whether the resumed arrays equal those that were saved.
    """
    start(source, folder, lora)
    resumed = start(source, folder, lora)
    export_run(folder / "run", folder / "export", **export)
    return folder / "export", resumed is True


def compare(source, export) -> dict[str, bool]:
    """What is equal in two policy directories."""
    both = [open_policy_dir(directory) for directory in (source, export)]
    encoders = [TextTokenizer.from_pretrained(d.root) for d in both]
    settings = [policy_settings(d) for d in both]
    policies, params = zip(*(load_policy(d.root, "float32") for d in both))
    files = [tokenizer_files(d) for d in both]
    if "generation_config.json" not in files[0]:
        del files[1]["generation_config.json"]  # it is made of config.json

    def same(function) -> bool:
        first, second = (function(encoder) for encoder in encoders)
        return first == second

    return {
        "files": files[0] == files[1],
        "ids": same(lambda e: [e.encode(text) for text in TEXTS])
        and same(lambda e: [e.encode_control(text) for text in TEXTS]),
        "stops": same(lambda e: e.stop_ids),
        "template": same(lambda e: e.render_chat(MESSAGES)),
        "roles": same(lambda e: (e.control_ids, sorted(e._special_tokens.items()))),
        "sampling": settings[0].sampling == settings[1].sampling,
        "head": policies[0].config.tie_word_embeddings
        is policies[1].config.tie_word_embeddings,
        "config": dataclasses.asdict(policies[0].config)
        == dataclasses.asdict(policies[1].config),
        "weights": _same(*params),
    }


def compare_by_transformers(source, export) -> dict[str, bool]:
    """The same, as transformers sees it; logits to 1e-6."""
    import torch
    import transformers

    tokenizers = [
        transformers.AutoTokenizer.from_pretrained(d) for d in (source, export)
    ]
    models = [
        transformers.AutoModelForCausalLM.from_pretrained(d, dtype=torch.float32).eval()
        for d in (source, export)
    ]

    def same(function, of=tokenizers) -> bool:
        first, second = (function(item) for item in of)
        return first == second

    def generation(model):
        config = model.generation_config.to_dict()
        ours = ("transformers_version", "_from_model_config")
        if not (pathlib.Path(source) / "generation_config.json").is_file():
            return {n: config[f"{n}_token_id"] for n in ("bos", "eos", "pad")}
        return {n: v for n, v in config.items() if n not in ours}

    encoder = TextTokenizer.from_pretrained(export)
    eos = models[1].generation_config.eos_token_id
    eos = set(eos) if isinstance(eos, list) else {eos}
    prompt = encoder.render_chat(MESSAGES)
    ids = torch.arange(3, 80)[None]
    with torch.no_grad():
        logits = [model(ids).logits.numpy() for model in models]

    def render(tokenizer):
        if tokenizer.chat_template is None:  # in chat_template.json, for processors
            return None
        return tokenizer.apply_chat_template(
            MESSAGES, tokenize=False, add_generation_prompt=True
        )

    return {
        "T:ids": same(lambda t: [t(text)["input_ids"] for text in TEXTS]),
        "T:template": same(render),
        "T:roles": same(lambda t: t.special_tokens_map),
        "T:generation": same(generation, models),
        "T:head": same(
            lambda m: (
                m.get_input_embeddings().weight is m.get_output_embeddings().weight
            ),
            models,
        ),
        "T:prompt=ours": encoder.encode_control(prompt)
        == tokenizers[1](prompt, add_special_tokens=False)["input_ids"],
        "T:stops<=ours": eos <= {*encoder.stop_ids, None},
        "T:logits": bool(np.abs(logits[0] - logits[1]).max() <= 1e-6),
    }


def _same(one, other) -> bool:
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False
    equal = jax.tree.map(lambda a, b: bool((np.asarray(a) == b).all()), one, other)
    return all(jax.tree.leaves(equal))


def main() -> None:
    warnings.simplefilter("ignore")
    for source in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as scratch:
            export, resumed = through_a_run(source, pathlib.Path(scratch))
            row = {"resumed": resumed, **compare(source, export)}
            row |= compare_by_transformers(source, export)
        cells = " ".join(f"{k}={'equal' if v else 'OTHER'}" for k, v in row.items())
        print(f"{pathlib.Path(source).name:28} {cells}", flush=True)


if __name__ == "__main__":
    main()
