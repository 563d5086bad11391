"""Compute Engine and queued resources: commands, and what a machine does at first."""

import subprocess

import pytest
from launch_scripts import HARD, dry_run, file_text, of, program, recorded, recorder

GROUP = ("gcloud", "compute", "instance-groups", "managed")


@pytest.mark.parametrize(
    ("topology", "machine", "hosts", "family"),
    [
        ("v5p:4x4x4", "ct5p-hightpu-4t", 16, "ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e"),
        ("v6e:8x8", "ct6e-standard-4t", 16, "ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e"),
        ("tpu7x:4x4x4", "tpu7x-standard-4t", 16, "ubuntu-accel-2404-amd64-tpu-tpu7x"),
    ],
)
def test_a_slice_of_compute_engine(topology, machine, hosts, family):
    found = dry_run("compute_engine.sh", "--topology", topology)
    policy = of(found, "gcloud", "compute", "resource-policies", "create")
    assert policy.words[4:6] == ["workload-policy", "q7"]
    assert policy.flag("--type") == "HIGH_THROUGHPUT"
    assert policy.flag("--accelerator-topology") == topology.partition(":")[2]
    assert policy.flag("--region") == "us-east5"
    template = of(found, "gcloud", "compute", "instance-templates", "create")
    assert template.flag("--machine-type") == machine
    assert template.flag("--image-family") == family
    assert template.flag("--maintenance-policy") == "TERMINATE"
    assert template.flag("--provisioning-model") == "STANDARD"
    group = of(found, *GROUP, "create")
    assert group.flag("--template") == "q7"
    assert group.flag("--size") == str(hosts)
    assert group.flag("--target-size-policy-mode") == "bulk"
    assert group.flag("--default-action-on-vm-failure") == "do-nothing"
    path = "projects/mine/regions/us-east5/resourcePolicies/q7"
    assert group.flag("--workload-policy") == path
    assert "--distributed" in file_text(found, "startup.sh")
    assert "docker stop -t 600 q7" in file_text(found, "shutdown.sh")


def test_one_machine_is_no_slice():
    found = dry_run("compute_engine.sh", "--topology", "v6e:2x4")
    group = of(found, *GROUP, "create")
    assert group.flag("--size") == "1"
    assert group.flag("--default-action-on-vm-failure") == "repair"
    assert not [w for c in found for w in c.words if "policy" in w and "work" in w]
    assert "--distributed" not in file_text(found, "startup.sh")


def test_how_capacity_is_had():
    def template(*more):
        found = dry_run("compute_engine.sh", *more)
        return of(found, "gcloud", "compute", "instance-templates", "create")

    spot = template("--provisioning", "spot")
    assert spot.flag("--provisioning-model") == "SPOT"
    reserved = template("--provisioning", "reservation", "--reservation", "ours")
    assert reserved.flag("--provisioning-model") == "RESERVATION_BOUND"
    assert reserved.flag("--reservation") == "ours"
    assert template("--service_account", "a@b").flag("--service-account") == "a@b"


def test_what_can_be_done_with_a_run(env_file):
    def words(what, *more):
        return [c.words for c in dry_run("compute_engine.sh", what, *more)]

    [logs] = words("--logs")
    assert logs[:5] == ["gcloud", "beta", "logging", "tail", logs[4]]
    assert 'jsonPayload.container.name="/q7"' in logs[4]
    deleted = words("--delete", "--env_file", str(env_file))
    assert [" ".join(w[1:5]) for w in deleted] == [
        "compute instance-groups managed delete",
        "compute instance-templates delete q7",
        "secrets delete q7-env --project=mine",
        "compute resource-policies delete q7",
    ]
    again = words("--resume")
    assert [w[4] for w in again] == ["delete", "create"]
    assert again[1] == of(dry_run("compute_engine.sh"), *GROUP, "create").words


def test_queued_resources():
    found = dry_run("queued_resources.sh", "--spot")
    create = of(found, "gcloud", "compute", "tpus", "queued-resources", "create")
    assert create.words[5] == "q7"
    assert create.flag("--accelerator-type") == "v5litepod-256"
    assert create.flag("--runtime-version") == "v2-alpha-tpuv5-lite"
    assert create.flag("--node-id") == "q7"
    assert "--spot" in create.words
    again = dry_run("queued_resources.sh", "--spot", "--resume")
    assert again[0].words[4:6] == ["delete", "q7"]
    assert again[1:] == found
    [logs] = dry_run("queued_resources.sh", "--logs")
    assert logs.words[1:6] == ["compute", "tpus", "tpu-vm", "ssh", "q7"]
    assert logs.flag("--worker") == "0"
    [delete] = dry_run("queued_resources.sh", "--delete")
    assert "--force" in delete.words


@pytest.mark.parametrize("script", ["compute_engine.sh", "queued_resources.sh"])
def test_a_machine_starts_the_container(script, bare_path, env_file):
    """The start-up script itself is run, with programs that record their words."""
    more = ["--data", "gs://b/d", "--env_file", str(env_file)]
    text = file_text(dry_run(script, *more, words=HARD), "startup.sh")
    for name in ("docker", "gcloud", "mkdir"):
        (bare_path / name).unlink(missing_ok=True)
        recorder(bare_path, name)
    start = program(bare_path, "startup", text)
    subprocess.run([start], env={"PATH": str(bare_path)}, check=True)
    assert recorded(bare_path, "gcloud") == [
        ["auth", "configure-docker", "us-docker.pkg.dev", "--quiet"],
        ["storage", "rsync", "--recursive", "gs://b/d", "/data"],
        [
            *["secrets", "versions", "access", "latest", "--secret=q7-env"],
            *["--project=mine", "--out-file=/run/gru_mem.env"],
        ],
    ]
    image = "us-docker.pkg.dev/mine/r/gru-mem:1"
    pull, remove, run = recorded(bare_path, "docker")
    assert pull == ["pull", image]
    assert remove == ["rm", "--force", "q7"]
    at = run.index(image)
    assert run[at + 1 :] == [*HARD, "--run_dir", "gs://b/q7", "--distributed"]
    flags = " ".join(run[:at])
    assert flags.startswith("run --detach --name q7 --restart on-failure --privileged")
    assert "--env-file /run/gru_mem.env" in flags
    assert "--volume /data:/data:ro" in flags


def test_chips_that_need_another_script(bare_path):
    from launch_scripts import launch, start_words

    words = start_words("compute_engine.sh", "--topology", "v5e:4x4")
    assert "use gke.sh" in launch("compute_engine.sh", *words, check=False).stderr
    words = start_words("queued_resources.sh", "--topology", "v6e:4x4")
    assert "use compute" in launch("queued_resources.sh", *words, check=False).stderr
