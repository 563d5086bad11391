"""`train` and `sft`: a configuration and a run folder to a trained policy."""

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import jax

from gru_mem_jax.agent.config import (
    SETTINGS_FILE,
    AgentConfig,
    config_to_dict,
    replace_settings,
)
from gru_mem_jax.hosts import processes as hosts_lib
from gru_mem_jax.policy.agent_settings import policy_settings
from gru_mem_jax.policy.files import PolicyDir, tokenizer_files
from gru_mem_jax.policy.hf import load_policy
from gru_mem_jax.rl import lora
from gru_mem_jax.rl.compile import Learner, compile_learner
from gru_mem_jax.runs.checkpoints.manager import Checkpoints
from gru_mem_jax.runs.checkpoints.store import RunState, RunStore, weights_digest
from gru_mem_jax.runs.folder import RunFolder, describe_environment
from gru_mem_jax.runs.health import health_of
from gru_mem_jax.runs.metrics import MetricsWriter, start_wandb
from gru_mem_jax.runs.signals import StopSignal, Watchdog
from gru_mem_jax.train.agreement import agree_on_files, agree_on_settings
from gru_mem_jax.train.config import MAY_CHANGE, SFTConfig, TrainConfig, settings_text
from gru_mem_jax.train.data_check import (
    DataCheck,
    check_data,
    data_identity,
    keep_in_run,
    make_judge,
)
from gru_mem_jax.train.endings import RunResult, last_line, runtime_told
from gru_mem_jax.train.engine import HeldEngine
from gru_mem_jax.train.evaluate import Evaluator
from gru_mem_jax.train.footprint import describe_memory
from gru_mem_jax.train.loop import Columns, Loop, Monitor, RunParts, StepKind
from gru_mem_jax.train.plan import Plan, open_start, plan
from gru_mem_jax.train.profiling import Profiler, ProfileSteps
from gru_mem_jax.train.progress import RunProgress, note_alone
from gru_mem_jax.train.questions import QuestionStage, held_out_sets, held_out_turns
from gru_mem_jax.train.rl import RLStep
from gru_mem_jax.train.sft import SFTStep


def train(
    config: TrainConfig,
    run_dir: str | pathlib.Path,
    *,
    command: Sequence[str] = (),
    config_text: str | None = None,
    resume_with_changes: bool = False,
    replay: str | None = None,
    wandb_project: str | None = None,
    profile: ProfileSteps | None = None,
    quiet: bool = False,
) -> RunResult:
    """Trains a policy by reinforcement learning, or resumes a run.

    Args:
      config: all that decides the numbers. `config.loop.policy` is where the run begins
        and the KL's reference to the end, also of a run that is resumed.
      run_dir: the run folder; made if it is not there.
      command: the words that repeat this call, to be kept and told.
      config_text: the configuration as text, compared when a run is resumed; None: a
        text made of `config`.
      resume_with_changes: resume although the configuration, or the source's data,
        differ.
      replay: a folder of rollouts that were kept by `RolloutConfig.record`: they are
        trained from, and nothing is sampled.
      wandb_project: log to Weights & Biases too.
      profile: steps to keep a profiler's trace of, in `profile` of the run folder.
      quiet: show nothing on stderr.

    Returns:
      RunResult. SIGTERM and SIGINT end a run this way too, saved.

    Raises:
      InputError: configuration, policy, data and folder do not go together; a
        BadRecordsError has all bad records of a finite source.
      RunError: the run failed; what was saved before is intact.
    """
    with tempfile.TemporaryDirectory() as scratch, hosts_lib.current().telling():
        text = settings_text(config) if config_text is None else config_text
        run = _Run(config, run_dir, text, scratch, resume_with_changes, quiet)
        return run.run(command, wandb_project, replay, profile)


def sft(
    config: SFTConfig,
    run_dir: str | pathlib.Path,
    *,
    command: Sequence[str] = (),
    config_text: str | None = None,
    resume_with_changes: bool = False,
    wandb_project: str | None = None,
    profile: ProfileSteps | None = None,
    quiet: bool = False,
) -> RunResult:
    """Trains a policy on an oracle's turns, or resumes a run; else as `train`."""
    with tempfile.TemporaryDirectory() as scratch, hosts_lib.current().telling():
        text = settings_text(config) if config_text is None else config_text
        run = _Run(config, run_dir, text, scratch, resume_with_changes, quiet)
        return run.run(command, wandb_project, None, profile)


class _Run:
    """One call, from what fits together to the last line."""

    def __init__(
        self,
        config: TrainConfig | SFTConfig,
        run_dir: str | pathlib.Path,
        config_text: str,
        scratch: str,
        accept_changes: bool,
        quiet: bool,
    ):
        # First: what does not fit together leaves no folder behind.
        self._config, self._accept_changes = config, accept_changes
        self._run_dir, self._quiet = run_dir, quiet
        self._config_text, self._hosts = config_text, hosts_lib.current()
        self._hosts.watch()
        # The first process alone writes and shows what is written and shown once.
        self._shows_nothing = quiet or not self._hosts.is_first
        agree_on_settings(self._hosts, config_text, run_dir)
        self._directory = open_start(config, scratch)
        self._planned = plan(config, self._directory)
        self._judge = make_judge(config, self._planned)
        self._data = self._check(config.source)
        self._sets = held_out_sets(config, self._planned)
        self._turns = held_out_turns(config, self._planned, self._judge)
        self._short_data: DataCheck | None = None
        if isinstance(config, SFTConfig) and config.short_source is not None:
            self._short_data = self._check(config.short_source)
        # The KL's reference and the base of adapters; in any case, where a run began.
        self._weights_sha256 = weights_digest(self._directory)
        agree_on_files(self._hosts, config, self._weights_sha256, self._planned.mesh)

    def _check(self, source: Any) -> DataCheck | None:
        return check_data(
            source,
            self._judge,
            self._directory,
            run_dir=self._run_dir,
            quiet=self._shows_nothing,
        )

    def run(
        self,
        command: Sequence[str],
        wandb_project: str | None,
        replay: str | None,
        profile: ProfileSteps | None,
    ) -> RunResult:
        """See `train`."""
        loop, hosts = self._config.loop, self._hosts
        hosts.limit_seconds = loop.hang_seconds or float("inf")
        folder = RunFolder.open(
            self._run_dir,
            command=command,
            config_text=self._config_text,
            environment=describe_environment,
            may_change=MAY_CHANGE,
            resume_with_changes=self._accept_changes,
        )
        with folder, RunProgress(loop.num_steps, quiet=self._shows_nothing) as show:

            def say(line: str) -> None:
                if hosts.is_first:
                    folder.log(line)
                    show.note(line)

            def say_alone(line: str) -> None:
                say(line) if hosts.is_first else note_alone(hosts, line, self._quiet)

            say(f"run folder: {folder.path}")
            for note in folder.notes:
                show.note(note)
            if hosts.is_first:
                keep_in_run(self._data, folder.path)
            for line in [] if self._data is None else self._data.lines():
                say(line)
            for line in (line for each in self._sets for line in each.lines()):
                say(f"evaluation: {line}")
            with (
                StopSignal(lambda name: say_alone(f"{name}: saving the run")) as stop,
                Watchdog(loop.hang_seconds, on_hang=folder.log) as watchdog,
                runtime_told(self._planned.memory, hosts),
            ):
                hosts.share(
                    stop,
                    on_wait=lambda: watchdog.beat("waiting for other processes"),
                    on_lost=folder.log,
                )
                profiler = Profiler(profile, folder.path / "profile", say_alone, hosts)
                monitor = Monitor(stop, watchdog, say, hosts, profiler, show.activity)
                result = self._train(folder, show, monitor, wandb_project, replay)
            say(last_line(result, folder, loop.num_steps))
        return result

    def _train(
        self,
        folder: RunFolder,
        show: RunProgress,
        monitor: Monitor,
        wandb_project: str | None,
        replay: str | None,
    ) -> RunResult:
        config, planned, say = self._config, self._planned, monitor.note
        monitor.beat("reading the policy")
        monitor.activity.doing("reading the policy")
        for note in planned.notes:
            say(f"note: {note}")
        say(f"memory by formula, {describe_memory(planned.memory)}")
        supervised = isinstance(config, SFTConfig)
        learner = compile_learner(
            planned.policy,
            None if supervised else config.objective,
            config.learner,
            planned.mesh,
            temperature=1.0 if supervised else planned.agent.sampling.temperature,
        )
        first = self._hosts.is_first
        wandb = (
            start_wandb(wandb_project, folder.id) if wandb_project and first else None
        )
        best = None if config.loop.best_metric is None else "max"
        with Checkpoints(
            folder.checkpoints, keep=config.loop.keep, best=best
        ) as checkpoints:
            store = self._store(folder, learner, checkpoints)
            at, warnings = store.restore()
            for warning in warnings:
                say(f"warning: {warning}")
            frozen, reference, at = self._weights(learner, at)
            written = at.step if at.pending is None else at.step - 1
            with MetricsWriter(
                folder.metrics,
                enabled=first,
                cut_to=written,
                tensorboard=folder.tensorboard,
                wandb=wandb,
            ) as metrics:
                if at.step:
                    say(f"resumed from step {at.step}")
                    if (
                        first
                        and metrics.last_step
                        < written - written % config.loop.log_every
                    ):
                        say(
                            f"warning: {folder.metrics} ends with step "
                            f"{metrics.last_step}, before the checkpoint of step "
                            f"{at.step}"
                        )
                health = health_of(metrics.before)

                def show_row(step: int, row: Columns) -> None:
                    show.row(step, row)
                    for line in health.see({"step": step, **row}):
                        say(line)

                parts = self._parts(learner, folder, monitor, frozen, reference)
                kind = self._kind(parts, replay)
                loop = Loop(config.loop, kind, store, metrics, show_row, monitor, at)
                finished = loop.run()
                for line in health.at_end() if finished else ():
                    say(line)
        return RunResult(
            run_dir=folder.path,
            step=loop.at.step,
            finished=finished,
            skipped=int(loop.at.state.skipped),
        )

    def _parts(
        self,
        learner: Learner,
        folder: RunFolder,
        monitor: Monitor,
        frozen: Any,
        reference: Any,
    ) -> RunParts:
        config, planned = self._config, self._planned
        engine = HeldEngine(
            planned.policy, planned.engine, planned.encoder, planned.mesh
        )
        evaluator = None
        if self._sets:
            evaluator = Evaluator(
                engine,
                planned.encoder,
                planned.agent,
                self._sets,
                config.loop.eval_modes,
                monitor,
            )
        return RunParts(
            planned=planned,
            learner=learner,
            engine=engine,
            evaluate=evaluator,
            place=engine.place,
            folder=folder,
            monitor=monitor,
            frozen=frozen,
            reference=reference,
        )

    def _kind(self, parts: RunParts, replay: str | None) -> StepKind:
        config = self._config

        def questions(source: Any, data: DataCheck | None) -> QuestionStage:
            return QuestionStage(source, self._judge, data, parts.monitor.note)

        first = questions(config.source, self._data)
        if isinstance(config, TrainConfig):
            return RLStep(config, parts, first, replay=replay)
        short = None
        if config.short_source is not None:
            short = questions(config.short_source, self._short_data)
        return SFTStep(config, parts, first, short, self._turns)

    def _store(
        self, folder: RunFolder, learner: Learner, checkpoints: Checkpoints
    ) -> RunStore:
        config, planned, directory = self._config, self._planned, self._directory
        identity: dict[str, Any] = {"policy": planned.policy.config.to_hf()}
        if config.learner.lora is not None:
            depth = planned.policy.config.num_hidden_layers
            identity["lora"] = lora.to_record(config.learner.lora, depth)
        identity["weights_sha256"] = self._weights_sha256
        files = tokenizer_files(directory)
        files["operative.gin"] = folder.config_text.encode()
        settings = config_to_dict(_settings_to_use(config, planned, directory))
        files[SETTINGS_FILE] = (json.dumps(settings, indent=2) + "\n").encode()
        return RunStore(
            checkpoints,
            learner,
            identity,
            files,
            data=data_identity(config.source),
            accept_data=self._accept_changes,
            overlap=isinstance(config, TrainConfig) and config.rollouts.overlap,
            supervised=isinstance(config, SFTConfig),
        )

    def _weights(
        self, learner: Learner, at: RunState | None
    ) -> tuple[Any, Any, RunState]:
        """Frozen params, the reference's params, and where the run stands."""
        config = self._config
        adapted = config.learner.lora is not None
        has_reference = isinstance(config, TrainConfig) and config.objective.beta > 0
        frozen, reference, first = {}, None, None
        if at is None or adapted or has_reference:
            root = self._directory.root
            _, first = load_policy(root, "float32", mesh=self._planned.mesh)
            first = learner.put(first)
        if adapted:
            frozen = learner.freeze(first)
        if has_reference:
            # The policy that the run began with, never the restored one: else every
            # restart would forgive the drift.
            reference = frozen if adapted else _cast(learner, first)
        if at is None:
            at = RunState(step=0, state=learner.init(first), position=0, pending={})
        return frozen, reference, at


def _settings_to_use(
    config: TrainConfig | SFTConfig, planned: Plan, directory: PolicyDir
) -> AgentConfig:
    """How the trained policy is to be used: sampled from as it was before.

    It reads as its supervised turns did; after rollouts, whose budgets may have been
    tighter, within its own, unless it was trained to read otherwise.
    """
    none = {"update_threshold": None, "exit_threshold": None}  # of the old weights
    own = dataclasses.replace(policy_settings(directory), **none)
    trained = dataclasses.replace(planned.agent, **none)
    same = (own.chunk_size, own.prompt) == (trained.chunk_size, trained.prompt)
    if same and isinstance(config, TrainConfig):
        return replace_settings(own, mode=trained.mode, format=trained.format)
    return dataclasses.replace(trained, sampling=own.sampling)


def _cast(learner: Learner, params: Any) -> Any:
    cast = jax.jit(
        lambda tree: jax.tree.map(lambda x: x.astype(learner.config.dtype), tree),
        out_shardings=learner.params_sharding,
    )
    return cast(params)
