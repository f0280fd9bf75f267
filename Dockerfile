# docker build --target cpu -t mlr-rl:cpu .      or: make docker
# docker build --target cuda -t mlr-rl:cuda .    or: make docker DOCKER_TARGET=cuda
# docker run --rm -it --gpus all --shm-size 2g -v "$PWD/runs:/mlr/runs" mlr-rl:cuda
FROM python:3.11-slim-bookworm AS base
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git libegl1 libgl1 make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /mlr
# pyproject.toml and the lock alone: a change of the code leaves the installed packages in the build's cache.
COPY Makefile pyproject.toml requirements.lock README.md LICENSE ./
ENV PATH=/mlr/.venv/bin:$PATH

FROM base AS cpu
RUN make .venv/.mlr-installed TORCH_INDEX=https://download.pytorch.org/whl/cpu && pip cache purge
COPY . .
CMD ["bash"]

FROM base AS cuda
# EGL renders on the GPU only where the container has the driver's graphics libraries.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics
RUN make .venv/.mlr-installed && pip cache purge
COPY . .
CMD ["bash"]
