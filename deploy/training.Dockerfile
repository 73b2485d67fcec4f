# The project with its environment, for training in a container. Written for Docker with BuildKit; not built here.
# Command: docker build --file deploy/training.Dockerfile --tag registry.example.org/forgeline/training .
# The base is python:3.11-slim-bookworm (3.11.16) by the digest that docker-library/repo-info publishes for it. A newer
# one: docker buildx imagetools inspect python:3.11-slim-bookworm --format '{{.Manifest.Digest}}'
FROM python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app
RUN useradd --uid 1000 --create-home forgeline && mkdir /cache && chown 1000:1000 /app /cache

# What a stack needs beside the project (configs/stacks/), and which of the lock's pins that cannot bear.
ARG PACKAGES=""
ARG LOOSE="none"
COPY pyproject.toml requirements.lock ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > /tmp/needs.txt \
    && grep --invert-match --extended-regexp "^(${LOOSE})==" requirements.lock > /tmp/lock.txt \
    && pip install --no-cache-dir --constraint /tmp/lock.txt --requirement /tmp/needs.txt ${PACKAGES}

COPY --chown=1000:1000 . .
RUN pip install --no-cache-dir --no-deps --editable .
ENV OMP_WAIT_POLICY=PASSIVE MLFLOW_DISABLE_TELEMETRY=true ZENML_ANALYTICS_OPT_IN=false \
    XDG_CACHE_HOME=/cache
USER 1000:1000
