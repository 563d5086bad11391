"""A run's checkpoint as a Hugging Face directory, with a card that says how it went."""

import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from gru_mem_jax import durable_files
from gru_mem_jax.agent.config import SETTINGS_FILE
from gru_mem_jax.errors import InputError, PolicyError
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.files import is_tokenizer_file, open_policy_dir
from gru_mem_jax.policy.functional import Policy, make_policy
from gru_mem_jax.policy.hf import export_policy, load_policy
from gru_mem_jax.rl import lora
from gru_mem_jax.runs import columns
from gru_mem_jax.runs.checkpoints.manager import Checkpoints
from gru_mem_jax.runs.checkpoints.store import weights_digest
from gru_mem_jax.runs.folder import RunFolder
from gru_mem_jax.runs.metrics import read_metrics

_CARD_ROWS = 6


def export_run(
    run_dir: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    step: int | None = None,
    policy_dir: str | None = None,
    adapters: bool = False,
    dtype: str | None = None,
) -> int:
    """Writes the policy of a run as a directory that transformers and `ask` load.

    Args:
      run_dir: a run folder, also of a run that goes on.
      out: a directory that does not exist yet, or is empty.
      step: a saved one; None: the newest.
      policy_dir: where the run began; needed to merge the adapters of a LoRA run.
      adapters: write the adapters of a LoRA run alone, in PEFT's layout.
      dtype: of the stored weights; None: float32, as they were trained.

    Returns:
      The step.

    Raises:
      InputError: there is no such step, or its adapters cannot be merged.
      RunError: the step is damaged; names the file.
    """
    run = RunFolder.read(run_dir)
    with Checkpoints(run.checkpoints, create=False) as checkpoints:
        steps = checkpoints.steps()
        step = steps[-1] if step is None and steps else step
        identity = checkpoints.metadata(step)["identity"]
        files = checkpoints.files(step)
        policy = make_policy(PolicyConfig.from_hf(identity["policy"]))
        config = identity.get("lora")
        if adapters and config is None:
            raise InputError(f"{run_dir}: was not trained with LoRA: no adapters")
        if config is None:
            shapes: Any = policy.abstract_params()
        else:
            config = lora.LoraConfig(**config | {"targets": tuple(config["targets"])})
            shapes = lora.abstract_adapters(policy, config)
        params = checkpoints.restore({"params": shapes}, step)["params"]
    card = model_card(_rows(run, step), step, by_lora=config is not None)
    if adapters:
        _write_adapters(params, config, out, files[SETTINGS_FILE], card)
        return step
    if config is not None:
        base = _base(run_dir, policy_dir, identity)
        params = lora.merge(base, params, config.scale)
    _write_policy(policy, params, out, files, card, dtype)
    return step


def model_card(
    rows: Sequence[Mapping[str, Any]], step: int, *, by_lora: bool = False
) -> str:
    """The README.md of an exported policy.

    Args:
      rows: of metrics.jsonl, up to the step.
      step: of training.
      by_lora: whether it was trained with LoRA.
    """
    named = columns.table("card", rows)
    supervised = any("target_tokens" in row for row in rows)
    how, tag = "reinforcement learning", "reinforcement-learning"
    if supervised:
        how, tag = "supervised turns", "sft"
    every = max(1, -(-len(rows) // _CARD_ROWS))
    shown = [row for i, row in enumerate(rows) if i % every == 0 or row is rows[-1]]
    lines = [
        "---",
        "library_name: transformers",
        f"tags: [gru-mem, long-context, {tag}]",
        "---",
        "",
        "# A GRU-Mem policy",
        "",
        "Reads texts of any length chunk by chunk with a gated memory (Sheng et al., "
        "arXiv 2602.10560).",
        f"Trained by {how} with gru_mem_jax for {step} steps"
        + (", by LoRA adapters." if by_lora else "."),
        "",
        "    gru-mem ask --policy DIR --question Q --context FILE",
        "",
        "## Training",
        "",
        "| " + " | ".join(["step", *(column.title for column in named)]) + " |",
        "|---" * (1 + len(named)) + "|",
    ]
    for row in shown:
        # What is no finite number is a string in the rows.
        numbers = [row.get(column.name) for column in named]
        cells = [
            column.cell(number) if isinstance(number, int | float) else ""
            for column, number in zip(named, numbers)
        ]
        lines.append("| " + " | ".join([str(row["step"]), *cells]) + " |")
    lines.append("")
    lines += [f"- {column.title}: {column.meaning}" for column in named]
    if not rows:
        lines[-3:] = ["No rows of metrics were kept."]
    return "\n".join(lines) + "\n"


def _rows(run: RunFolder, step: int) -> list[dict[str, Any]]:
    if not run.metrics.is_file():
        return []
    return [row for row in read_metrics(run.metrics) if row["step"] <= step]


def _base(run_dir, policy_dir: str | None, identity: Mapping[str, Any]) -> Any:
    """The params that the adapters were trained on, known by their sha256."""
    if policy_dir is None:
        raise InputError(
            f"{run_dir}: was trained with LoRA: name the policy that it began with, to "
            "merge the adapters into it (--policy DIR), or export the adapters alone"
        )
    directory = open_policy_dir(policy_dir)
    if weights_digest(directory) != identity["weights_sha256"]:
        raise InputError(
            f"{directory.root}: has other weights than the policy that this run began "
            "with; its adapters do not belong to them"
        )
    return load_policy(directory.root, "float32")[1]


def _write_policy(
    policy: Policy, params: Any, out, files: Mapping[str, bytes], card: str, dtype
) -> None:
    tokenizer = {n: data for n, data in files.items() if is_tokenizer_file(n)}
    settings = json.loads(files[SETTINGS_FILE])
    export_policy(
        policy,
        params,
        out,
        tokenizer_files=tokenizer,
        dtype=dtype,
        agent_settings=settings,
    )
    _write(pathlib.Path(out) / "README.md", card)


def _write_adapters(
    adapters: Any, config: lora.LoraConfig, out, settings: bytes, card: str
) -> None:
    """Adapters and the settings that they were trained with.

    No tokenizer file: those of the base are used, unchanged, and where PEFT finds some
    it cuts the base's embedding to the tokenizer's size.
    """
    target = pathlib.Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise PolicyError(f"{target}: not empty; nothing is written over")
    aside = target.with_name(f"{target.name}.saving")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        lora.save_adapters(adapters, config, aside)
        (aside / SETTINGS_FILE).write_bytes(settings)
        _write(aside / "README.md", card)
        aside.rename(target)
    except OSError as error:
        raise durable_files.storage_error(target, error) from error


def _write(path: pathlib.Path, text: str) -> None:
    try:
        durable_files.write_atomically(path, text)
    except OSError as error:
        raise durable_files.storage_error(path, error) from error
