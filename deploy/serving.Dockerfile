# The gateway and its engines, without a model: bundle and base come on top (docs/targets/compose.md). Written for Docker
# with BuildKit; not built here. The base is python:3.11-slim-bookworm (3.11.16) by the digest that docker-library/repo-info
# publishes for it. A newer one: docker buildx imagetools inspect python:3.11-slim-bookworm --format '{{.Manifest.Digest}}'
# Command: docker build --file deploy/serving.Dockerfile --tag forgeline/serving:0.1.0 .
ARG PYTHON=python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b
FROM ${PYTHON} AS environment
# What the engine or a target wants beside deploy/serving.txt: openvino, ray.
ARG EXTRAS=""
WORKDIR /build
COPY requirements.lock deploy/serving.txt ./
RUN python -m venv /opt/forgeline \
    && /opt/forgeline/bin/pip install --no-cache-dir --no-compile --constraint requirements.lock --requirement serving.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/forgeline/bin/pip install --no-cache-dir --no-compile --no-deps . \
    && for extra in ${EXTRAS}; do \
        /opt/forgeline/bin/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['${extra}'], sep='\n')" \
            > extra.txt \
        && /opt/forgeline/bin/pip install --no-cache-dir --no-compile --constraint requirements.lock --requirement extra.txt; \
    done

FROM ${PYTHON}
# Programs of the system: wget, which KubeRay's probes call.
ARG PROGRAMS=""
# hadolint ignore=DL3008
RUN if [ -n "${PROGRAMS}" ]; then \
        apt-get update && apt-get install --yes --no-install-recommends ${PROGRAMS} && rm -rf /var/lib/apt/lists/*; \
    fi \
    && groupadd --gid 10001 forgeline \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /srv/state --shell /usr/sbin/nologin forgeline \
    && install --directory --owner 10001 --group 10001 --mode 0750 /srv/state
COPY --from=environment /opt/forgeline /opt/forgeline
# All that is written goes to /srv/state and /tmp: the rest may be read-only, and is not the user's.
ENV PATH=/opt/forgeline/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=10000 \
    HOME=/srv/state USER=forgeline FORGELINE_BASES=/srv/bases FORGELINE_CACHE=/srv/cache HF_HUB_OFFLINE=1
USER 10001:10001
WORKDIR /srv/state
EXPOSE 8600
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8600/healthz', timeout=4)"]
ENTRYPOINT ["python", "-m", "forgeline.serving.gateway", "--order", "/srv/order/order.json"]
