"""`train`: a run folder, a policy and settings to a trained policy."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from gru_mem_jax.agent.config import SETTINGS_FILE, AgentConfig, config_to_dict
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.evaluation.questions import DrawnSet
from gru_mem_jax.policy.agent_settings import policy_settings
from gru_mem_jax.policy.files import PolicyDir, open_policy_dir, tokenizer_files
from gru_mem_jax.policy.hf import load_policy
from gru_mem_jax.rl.learner import Learner, make_learner
from gru_mem_jax.runs.checkpoints.manager import Checkpoints
from gru_mem_jax.runs.checkpoints.store import RunState, RunStore, weights_digest
from gru_mem_jax.runs.folder import RunFolder, describe_environment
from gru_mem_jax.runs.metrics import MetricsWriter, start_wandb
from gru_mem_jax.runs.signals import StopSignal, Watchdog
from gru_mem_jax.sampling.engine import Engine
from gru_mem_jax.train.config import MAY_CHANGE, TrainConfig, settings_text
from gru_mem_jax.train.data_check import (
    check_data,
    data_identity,
    keep_in_run,
    make_judge,
)
from gru_mem_jax.train.footprint import describe_memory
from gru_mem_jax.train.loop import Loop, Parts
from gru_mem_jax.train.plan import Plan, plan
from gru_mem_jax.train.progress import TrainProgress
from gru_mem_jax.train.questions import QuestionStage, held_out_sets
from gru_mem_jax.train.rollouts import RolloutStage, Scorer


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a call of `train` came to.

    Attributes:
      run_dir: the run folder.
      step: steps that are done.
      finished: false if it was asked to stop before the last step.
      skipped: optimiser steps that were skipped in all.
    """

    run_dir: pathlib.Path
    step: int
    finished: bool
    skipped: int


def train(
    settings: TrainConfig,
    policy_dir: str,
    run_dir: str | pathlib.Path,
    *,
    command: Sequence[str] = (),
    config_text: str | None = None,
    resume_with_changes: bool = False,
    replay: str | None = None,
    wandb_project: str | None = None,
    quiet: bool = False,
) -> TrainResult:
    """Trains a policy by reinforcement learning, or goes on with a run.

    Args:
      settings: all that decides the numbers.
      policy_dir: where the run begins: a Hugging Face directory or hf:// name. It is
        the KL's reference to the end, also of a run that is gone on with.
      run_dir: the run folder; made if it is not there.
      command: the words that repeat this call, to be kept and told.
      config_text: the settings as text, compared when a run is gone on with; None: a
        text made of `settings`.
      resume_with_changes: go on although the settings, or the source's data, differ.
      replay: a folder of rollouts that were kept by `LoopConfig.record`: they are
        trained from, and nothing is sampled.
      wandb_project: log to Weights & Biases too.
      quiet: show nothing on stderr.

    Returns:
      TrainResult. SIGTERM and SIGINT end a run this way too, saved.

    Raises:
      InputError: settings, policy, data and folder do not go together; a
        BadRecordsError has all bad records of a finite source.
      RunError: the run failed; what was saved before is intact.
    """
    # First: settings that do not fit together leave no folder behind.
    directory = open_policy_dir(policy_dir)
    planned = plan(settings, directory)
    judge = make_judge(settings, planned)
    data = check_data(settings.source, judge, directory, run_dir=run_dir, quiet=quiet)
    sets = held_out_sets(settings, planned)
    run = RunFolder.open(
        run_dir,
        command=command,
        config_text=settings_text(settings) if config_text is None else config_text,
        environment=describe_environment,
        may_change=MAY_CHANGE,
        resume_with_changes=resume_with_changes,
    )
    config = settings.train
    with run, TrainProgress(config.num_steps, quiet=quiet) as show:

        def say(line: str) -> None:
            run.log(line)
            show.note(line)

        say(f"run folder: {run.path}")
        for note in run.notes:
            show.note(note)
        keep_in_run(data, run.path)
        for line in [] if data is None else data.lines():
            say(line)
        for line in (line for each in sets for line in each.lines()):
            say(f"evaluation: {line}")
        questions = QuestionStage(settings.source, judge, data, say)
        asked = functools.partial("{}: saving where the run stands".format)
        with (
            StopSignal(lambda name: say(asked(name))) as stop,
            Watchdog(config.hang_seconds, on_hang=run.log) as watchdog,
        ):
            try:
                result = _run(
                    settings,
                    planned,
                    directory,
                    run,
                    show,
                    say,
                    (stop, watchdog),
                    questions,
                    sets,
                    accept_data=resume_with_changes,
                    replay=replay,
                    wandb_project=wandb_project,
                )
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                raise _out_of_memory(error, settings, policy_dir) from error
        say(_last_line(result, run, config.num_steps))
    return result


def _run(
    settings: TrainConfig,
    planned: Plan,
    directory: PolicyDir,
    run: RunFolder,
    show: TrainProgress,
    say,
    signals: tuple[StopSignal, Watchdog],
    questions: QuestionStage,
    sets: tuple[DrawnSet, ...],
    *,
    accept_data: bool,
    replay: str | None,
    wandb_project: str | None,
) -> TrainResult:
    stop, watchdog = signals
    config = settings.train
    watchdog.beat("reading the policy")
    for note in planned.notes:
        say(f"note: {note}")
    say(f"memory by formula, {describe_memory(planned.memory)}")
    learner = make_learner(
        planned.policy,
        settings.objective,
        settings.learner,
        planned.mesh,
        temperature=planned.agent.sampling.temperature,
    )
    wandb = None
    if wandb_project is not None:
        wandb = start_wandb(wandb_project, run.id)
    with Checkpoints(
        run.checkpoints,
        keep=config.keep,
        best=None if config.best_metric is None else "max",
    ) as checkpoints:
        store = _store(
            settings, planned, directory, run, learner, checkpoints, accept_data
        )
        progress, warnings = store.restore()
        for warning in warnings:
            say(f"warning: {warning}")
        frozen, reference, progress = _weights(
            settings, learner, directory, planned, progress
        )
        row_is_written = (
            progress.step if progress.pending is None else progress.step - 1
        )
        with MetricsWriter(
            run.metrics,
            cut_to=row_is_written,
            tensorboard=run.tensorboard,
            wandb=wandb,
        ) as metrics:
            if progress.step:
                say(f"going on from step {progress.step}")
                if metrics.last_step < row_is_written:
                    say(
                        f"warning: {run.metrics} ends with step {metrics.last_step}, "
                        f"before the checkpoint of step {progress.step}"
                    )
            parts = _parts(
                settings, planned, learner, store, run, metrics, show, questions
            )
            loop = Loop(
                Parts(
                    **parts,
                    sets=sets,
                    frozen=frozen,
                    reference=reference,
                    stop=stop,
                    watchdog=watchdog,
                    replay=replay,
                ),
                progress,
            )
            finished = loop.run()
    return TrainResult(
        run_dir=run.path,
        step=loop.at.step,
        finished=finished,
        skipped=int(loop.at.state.skipped),
    )


def _store(
    settings: TrainConfig,
    planned: Plan,
    directory: PolicyDir,
    run: RunFolder,
    learner: Learner,
    checkpoints: Checkpoints,
    accept_data: bool,
) -> RunStore:
    identity: dict[str, Any] = {"policy": planned.policy.config.to_hf()}
    lora = settings.learner.lora
    if lora is not None:
        identity["lora"] = dataclasses.asdict(lora) | {"targets": list(lora.targets)}
    # The KL's reference and the base of adapters; in any case, where a run began.
    identity["weights_sha256"] = weights_digest(directory)
    files = tokenizer_files(directory)
    files["operative.gin"] = run.config_text.encode()
    files[SETTINGS_FILE] = _json(config_to_dict(_settings_to_use(planned, directory)))
    return RunStore(
        checkpoints,
        learner,
        identity,
        files,
        data=data_identity(settings.source),
        accept_data=accept_data,
        overlap=settings.train.overlap,
    )


def _settings_to_use(planned: Plan, directory: PolicyDir) -> AgentConfig:
    """How the trained policy is to be used.

    Sampled from as it was before, and within its own budgets, unless it was trained to
    read otherwise: rollouts may have had tighter ones.
    """
    own, trained = policy_settings(directory), planned.agent
    if (own.chunk_size, own.prompt) == (trained.chunk_size, trained.prompt):
        return dataclasses.replace(own, mode=trained.mode)
    return dataclasses.replace(trained, sampling=own.sampling)


def _weights(
    settings: TrainConfig,
    learner: Learner,
    directory: PolicyDir,
    planned: Plan,
    progress: RunState | None,
) -> tuple[Any, Any, RunState]:
    """Frozen params, the reference's params, and where the run stands."""
    lora, beta = settings.learner.lora, settings.objective.beta
    frozen, reference, first = {}, None, None
    if progress is None or lora is not None or beta > 0:
        _, first = load_policy(directory.root, "float32", mesh=planned.mesh)
        first = learner.put(first)
    if lora is not None:
        frozen = learner.freeze(first)
    if beta > 0:
        # The policy that the run began with, never the restored one: else every
        # restart would forgive the drift.
        reference = frozen if lora is not None else _cast(learner, first)
    if progress is None:
        progress = RunState(step=0, state=learner.init(first), position=0, pending={})
    return frozen, reference, progress


def _cast(learner: Learner, params: Any) -> Any:
    cast = jax.jit(
        lambda tree: jax.tree.map(lambda x: x.astype(learner.config.dtype), tree),
        out_shardings=learner.params_sharding,
    )
    return cast(params)


def _parts(
    settings: TrainConfig,
    planned: Plan,
    learner: Learner,
    store: RunStore,
    run: RunFolder,
    metrics: MetricsWriter,
    show: TrainProgress,
    questions: QuestionStage,
) -> Mapping[str, Any]:
    device = planned.mesh.devices.flat[0]

    def make_engine(params: Any) -> Engine:
        return Engine(planned.policy, params, planned.engine, planned.encoder)

    own = set(jax.local_devices())
    devices = [d for d in planned.mesh.devices.flat if d in own]
    scorer = Scorer(settings, planned.agent.mode, devices)
    return {
        "settings": settings,
        "agent": planned.agent,
        "encoder": planned.encoder,
        "learner": learner,
        "stage": RolloutStage(
            settings, planned.agent, planned.encoder, scorer, questions, make_engine
        ),
        "store": store,
        "run": run,
        "metrics": metrics,
        "show": show,
        "place": lambda params: jax.device_put(params, SingleDeviceSharding(device)),
    }


def _last_line(result: TrainResult, run: RunFolder, steps: int) -> str:
    skipped = f", {result.skipped} optimiser steps skipped" if result.skipped else ""
    if result.finished:
        return f"finished at step {result.step}{skipped}; run folder: {run.path}"
    command = run.resume_command or "the same call"
    return (
        f"stopped and saved at step {result.step} of {steps}{skipped}; run folder: "
        f"{run.path}; go on with: {command}"
    )


def _out_of_memory(
    error: BaseException, settings: TrainConfig, policy_dir: str
) -> BaseException:
    """What to tell where memory ran out; other errors as they are."""
    text = str(error)
    if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in text:
        return RunError(f"the accelerator's runtime failed: {text.splitlines()[0]}")
    estimate = ""
    with contextlib.suppress(InputError):
        memory = plan(settings, open_policy_dir(policy_dir)).memory
        estimate = f" (by formula, {describe_memory(memory)})"
    return RunError(
        f"out of memory{estimate}; lower row_tokens, rows_per_device or the engine's "
        "slots, set remat, or spread the policy over more devices (MeshConfig.fsdp)"
    )


def _json(record: Any) -> bytes:
    import json

    return (json.dumps(record, indent=2) + "\n").encode()
