# Everything that runs without a GPU: the quickstart, the tests, evaluation of an endpoint. Build it from the root of the repository:
#
#   docker build -f docker/cpu.Dockerfile -t rft:cpu .
#   docker run -v $PWD/out:/home/rft/out rft:cpu rft quickstart --out out/quickstart
FROM python:3.12.12-slim-bookworm

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends git g++ \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home --shell /bin/bash rft

USER 10001
ENV HOME=/home/rft
WORKDIR /home/rft
COPY --chown=rft docker/install.sh docker/install.sh
COPY --chown=rft pyproject.toml constraints.txt README.md LICENSE ./
COPY --chown=rft rft rft
COPY --chown=rft reward reward
RUN docker/install.sh cpu "$HOME/venv"
ENV PATH=/home/rft/venv/bin:$PATH
COPY --chown=rft recipes recipes
COPY --chown=rft launch launch
COPY --chown=rft tests tests
CMD ["rft", "--help"]
