"""Exports a run's checkpoint as a Hugging Face directory, with a model card."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from gru_mem_jax import durable_files, storage
from gru_mem_jax.agent.config import SETTINGS_FILE
from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.files import is_tokenizer_file, open_policy_dir
from gru_mem_jax.policy.functional import Policy, make_policy
from gru_mem_jax.policy.hf import load_policy
from gru_mem_jax.policy.hf_export import export_policy
from gru_mem_jax.rl import lora
from gru_mem_jax.runs import columns
from gru_mem_jax.runs.checkpoints.manager import Checkpoints
from gru_mem_jax.runs.checkpoints.store import weights_digest
from gru_mem_jax.runs.folder import RunFolder
from gru_mem_jax.runs.metrics import read_metrics

_CARD_ROWS = 6


def export_run(
    run_dir: str | os.PathLike[str],
    out: str | pathlib.Path,
    *,
    step: int | None = None,
    policy_dir: str | None = None,
    adapters: bool = False,
    dtype: str | None = None,
) -> int:
    """Writes the policy of a run as a directory that transformers and `ask` load.

    Args:
      run_dir: a run folder; the run may still be in progress.
      out: a directory that does not exist yet, or is empty.
      step: a saved one; None: the newest.
      policy_dir: the policy that a LoRA run began with, to merge its adapters into.
      adapters: write only the adapters of a LoRA run, in PEFT's layout.
      dtype: of the stored weights; None: float32, as in training.

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
        metadata = checkpoints.metadata(step)
        identity = metadata["identity"]
        files = checkpoints.files(step)
        policy = make_policy(PolicyConfig.from_hf(identity["policy"]))
        config = identity.get("lora")
        if adapters and config is None:
            raise InputError(f"{run_dir}: was not trained with LoRA: no adapters")
        if config is None:
            shapes: Any = policy.abstract_params()
        else:
            config = lora.from_record(config)
            shapes = lora.abstract_adapters(policy, config)
        params = checkpoints.restore({"params": shapes}, step)["params"]
    card = model_card(
        _rows(run, step),
        step,
        by_lora=config is not None,
        supervised=metadata.get("supervised", False),
    )
    if adapters:
        _write_adapters(params, config, out, files[SETTINGS_FILE], card)
        return step
    if config is not None:
        base = _base(run_dir, policy_dir, identity)
        params = lora.merge(base, params, config)
    _write_policy(policy, params, out, files, card, dtype)
    return step


def model_card(
    rows: Sequence[Mapping[str, Any]],
    step: int,
    *,
    by_lora: bool = False,
    supervised: bool = False,
) -> str:
    """The README.md of an exported policy.

    Args:
      rows: of metrics.jsonl, up to the step.
      step: of training.
      by_lora: whether it was trained with LoRA.
      supervised: whether on an oracle's turns; else by reinforcement learning.
    """
    named = columns.table("card", rows)
    if supervised:  # rows of held-out turns say more than the others
        rows = [row for row in rows if any(k.startswith("exact/") for k in row)] or rows
    every = max(1, -(-len(rows) // _CARD_ROWS))
    shown = [row for i, row in enumerate(rows) if i % every == 0 or row is rows[-1]]
    how, tag = "by reinforcement learning", "reinforcement-learning"
    if supervised:
        how, tag = "on supervised turns", "sft"
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
        f"Trained {how} with gru_mem_jax for {step} steps"
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
        # Numbers that are not finite are strings in the rows.
        numbers = [row.get(column.name) for column in named]
        cells = [
            column.cell(number) if isinstance(number, int | float) else ""
            for column, number in zip(named, numbers)
        ]
        lines.append("| " + " | ".join([str(row["step"]), *cells]) + " |")
    lines.append("")
    meanings: dict[str, list[str]] = {}
    for column in named:  # columns of one pattern share theirs
        meanings.setdefault(column.meaning, []).append(column.title)
    lines += [f"- {', '.join(titles)}: {text}" for text, titles in meanings.items()]
    if not rows:
        lines[-3:] = ["No rows of metrics were kept."]
    return "\n".join(lines) + "\n"


def _rows(run: RunFolder, step: int) -> list[dict[str, Any]]:
    if not storage.is_file(run.metrics):
        return []
    return [row for row in read_metrics(run.metrics) if row["step"] <= step]


def _base(run_dir, policy_dir: str | None, identity: Mapping[str, Any]) -> Any:
    """The params that the adapters were trained on, checked by sha256."""
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
    path = pathlib.Path(out) / "README.md"
    with durable_files.writing(path):
        durable_files.write_atomically(path, card)


def _write_adapters(
    adapters: Any, config: lora.LoraConfig, out, settings: bytes, card: str
) -> None:
    """Writes adapters and the settings that they were trained with.

    Without tokenizer files: those of the base are used, and PEFT would cut the base's
    embedding to the size of a tokenizer that it finds.
    """
    with durable_files.whole_folder(out) as folder:
        lora.save_adapters(adapters, config, folder)
        (folder / SETTINGS_FILE).write_bytes(settings)
        (folder / "README.md").write_text(card, encoding="utf-8")
