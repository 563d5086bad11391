"""The job of launch/slurm.sh: its directives, and what it does, with fakes of Slurm."""

import re
import signal
import subprocess
import time

import pytest
from launch_scripts import HARD, dry_run, program, recorded, recorder


def job_of(*more, **options):
    [command] = dry_run("slurm.sh", *more, **options)
    assert command.words == ["sbatch"]
    return command.text


def directives(text):
    found = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE)
    return dict(found)


def test_directives():
    told = directives(job_of("--partition", "gpu", "--time", "24:00:00"))
    assert told == {
        "job-name": "q7",
        "nodes": "2",
        "ntasks-per-node": "1",
        "gpus-per-node": "8",
        "exclusive": "",
        "output": "q7-%j.log",
        "open-mode": "append",
        "requeue": "",
        "dependency": "singleton",
        "signal": "B:TERM@300",
        "export": "NONE",
        "partition": "gpu",
        "time": "24:00:00",
    }
    assert directives(job_of("--processes", "gpu"))["ntasks-per-node"] == "8"


@pytest.fixture
def slurm(bare_path, tmp_path):
    """Runs a job with a fake srun that does `then`; gives status and calls."""
    run_dir = tmp_path / "runs of mine" / "q7"
    run_dir.mkdir(parents=True)

    def run(then, *more, log="12:00 step 3/4", stop_after=None, **options):
        (run_dir / "log.txt").write_text(f"12:00 begin\n{log}\n")
        recorder(bare_path, "srun", then)
        recorder(bare_path, "scontrol")
        env = {"GRU_MEM": "/e nv/gru-mem"}
        text = job_of("--run_dir", str(run_dir), *more, env=env, **options)
        job = subprocess.Popen(
            [program(tmp_path, "job", text)],
            env={"PATH": str(bare_path), "SLURM_JOB_ID": "77"},
        )
        if stop_after is not None:
            time.sleep(stop_after)
            job.send_signal(signal.SIGTERM)
        status = job.wait(timeout=20)
        return status, recorded(bare_path, "srun"), recorded(bare_path, "scontrol")

    run.run_dir = str(run_dir)
    return run


def test_words_arrive_unharmed(slurm):
    status, [words], requeued = slurm("exit 0", log="finished at step 4", words=HARD)
    assert words == [
        *["--export=ALL", "--kill-on-bad-exit=1", "--gpu-bind=none"],
        *["env", "JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7", "/e nv/gru-mem"],
        *[*HARD, "--run_dir", slurm.run_dir, "--distributed"],
    ]
    assert (status, requeued) == (0, [])


def test_one_process_a_gpu_and_a_container(slurm):
    more = ["--processes", "gpu", "--image", "reg/gru-mem:1", "--mounts", "/d:/data:ro"]
    _, [words], _ = slurm("exit 0", *more)
    folder = slurm.run_dir.rpartition("/")[0]
    assert words[3:6] == [
        "--container-image=reg/gru-mem:1",
        f"--container-mounts={folder}:{folder},/d:/data:ro",
        "gru-mem",
    ]


def test_one_gpu_is_one_process(slurm):
    _, [words], _ = slurm("exit 0", "--nodes", "1", "--gpus", "1")
    assert "--distributed" not in words


def test_a_run_that_stopped_goes_into_the_queue_again(slurm):
    status, _, requeued = slurm("exit 0", log="stopped and saved at step 3 of 4")
    assert (status, requeued) == (0, [["requeue", "77"]])


def test_a_run_that_failed_ends_the_job(slurm):
    status, _, requeued = slurm("exit 3")
    assert (status, requeued) == (3, [])


def test_sigterm_is_passed_on_and_waited_for(slurm):
    then = "trap 'sleep 0.3; exit 0' TERM; for i in {1..8}; do sleep 0.4; done; exit 9"
    status, _, requeued = slurm(then, stop_after=0.6)
    assert (status, requeued) == (0, [["requeue", "77"]])


def test_secrets_are_read_on_the_node(slurm, env_file):
    status, _, _ = slurm('[ "$HF_TOKEN" = secret-too ]', "--env_file", str(env_file))
    assert status == 0


def test_what_can_be_done_with_a_run():
    [logs] = dry_run("slurm.sh", "--logs")
    assert logs.words[0] == "tail"
    assert logs.words[-1] == "/shared/q7/log.txt"
    [delete] = dry_run("slurm.sh", "--delete", env={"USER": "me"})
    assert delete.words == ["scancel", "--name=q7", "--user=me"]
