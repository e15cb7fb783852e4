# Training and evaluation on NVIDIA GPUs, without or with vLLM. Build it from the root of the repository:
#
#   docker build -f docker/cuda.Dockerfile -t rft:cuda .
#   docker build -f docker/cuda.Dockerfile --build-arg WITH=vllm -t rft:vllm .
#   docker run --gpus all --shm-size 16g -v $PWD/out:/home/rft/out rft:cuda rft grpo --launch one_gpu --config recipes/...
FROM nvidia/cuda:13.0.2-cudnn-devel-ubuntu24.04

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv python3-dev git ninja-build libaio-dev \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home --shell /bin/bash rft

USER 10001
ENV HOME=/home/rft
WORKDIR /home/rft
COPY --chown=rft docker/install.sh docker/install.sh
COPY --chown=rft pyproject.toml constraints.txt README.md LICENSE ./
COPY --chown=rft rft rft
COPY --chown=rft reward reward
ARG WITH=cuda
RUN docker/install.sh "$WITH" "$HOME/venv"
ENV PATH=/home/rft/venv/bin:$PATH
COPY --chown=rft recipes recipes
COPY --chown=rft launch launch
COPY --chown=rft tests tests
CMD ["rft", "--help"]
