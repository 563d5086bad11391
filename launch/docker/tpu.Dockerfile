# gru-mem on TPU hosts.
#
#   docker build --file launch/docker/tpu.Dockerfile --tag IMAGE .
#   docker push IMAGE
#
# Holds no secrets: keys come in by the environment (--env_file of the launch scripts).
FROM python:3.11-slim

# First what the package needs: made anew only when its recipe changes, not its code.
WORKDIR /opt/gru_mem
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY gru_mem_jax/version.py gru_mem_jax/
# --build-arg MORE=wandb adds packages.
ARG MORE=""
# hadolint ignore=DL3013,SC2086 # setup.cfg has the versions; MORE are words
RUN touch gru_mem_jax/__init__.py && pip install --no-cache-dir '.[tpu,gcs]' ${MORE}

COPY gin gin
COPY gru_mem_jax gru_mem_jax
RUN pip install --no-cache-dir --no-deps --force-reinstall .
COPY launch/docker/entrypoint.sh launch/docker/entrypoint.sh

# Where no TPU is found the run ends, rather than train on the CPU.
ENV JAX_PLATFORMS=tpu,cpu PYTHONUNBUFFERED=1

# On TPU hosts the launch scripts start the container as root: the device files are root's.
RUN useradd --create-home --uid 10001 gru_mem
USER 10001
WORKDIR /home/gru_mem
ENTRYPOINT ["/opt/gru_mem/launch/docker/entrypoint.sh"]
