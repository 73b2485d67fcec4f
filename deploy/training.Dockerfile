# The project with its environment, for training in a container. Written for Docker with BuildKit; not built here.
# Command: docker build --file deploy/training.Dockerfile --tag registry.example.org/forgeline/training .
FROM python:3.11-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app

# What a stack needs beside the project (configs/stacks/), and which of the lock's pins that cannot bear.
ARG PACKAGES=""
ARG LOOSE="none"
COPY pyproject.toml requirements.lock ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > /tmp/needs.txt \
    && grep --invert-match --extended-regexp "^(${LOOSE})==" requirements.lock > /tmp/lock.txt \
    && pip install --no-cache-dir --constraint /tmp/lock.txt --requirement /tmp/needs.txt ${PACKAGES}

COPY . .
RUN pip install --no-cache-dir --no-deps --editable .
ENV OMP_WAIT_POLICY=PASSIVE MLFLOW_DISABLE_TELEMETRY=true ZENML_ANALYTICS_OPT_IN=false \
    XDG_CACHE_HOME=/cache
