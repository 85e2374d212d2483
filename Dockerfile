# The image of the scheduler. Needs neither BuildKit nor build arguments:
#   docker build -t councilor-scheduler .
# PYTHON_IMAGE is any Debian-like image with Python 3.11 or newer, its venv and pip, best by digest.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
# Each file that is installed is one whose hash stands in the lock files (scripts/lock writes them).
# Dependencies first: a change of the code alone does not install them again.
COPY scripts/requirements.lock scripts/requirements-build.lock ./
RUN python -m venv /opt/build \
 && python -m venv --without-pip /opt/councilor \
 && /opt/build/bin/pip install --require-hashes --requirement requirements-build.lock \
 && /opt/build/bin/pip --python /opt/councilor install --require-hashes --requirement requirements.lock
COPY pyproject.toml LICENSE README.md ./
COPY service service
RUN /opt/build/bin/pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /wheel . \
 && /opt/build/bin/pip --python /opt/councilor install --no-deps --no-index /wheel/*.whl

# The same base again: the virtual environment points at its interpreter.
FROM ${PYTHON_IMAGE}
# What installs packages has no place beside a service.
RUN for site in $(python -c 'import site; print(*site.getsitepackages())') /usr/lib/python3/dist-packages; do \
      rm -rf "$site"/pip "$site"/pip-* "$site"/setuptools "$site"/setuptools-* "$site"/pkg_resources \
        "$site"/_distutils_hack "$site"/distutils-precedence.pth "$site"/wheel "$site"/wheel-*; \
    done \
 && rm -rf /usr/local/bin/pip* /usr/local/bin/wheel /usr/bin/pip* /usr/bin/wheel /usr/share/python-wheels \
      "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')/ensurepip" \
      /root/.cache /var/cache/apt /var/lib/apt/lists
COPY --from=build /opt/councilor /opt/councilor
ENV PATH=/opt/councilor/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SCHEDULER_HTTP_HOST=0.0.0.0
ARG PYTHON_IMAGE
ARG REVISION=unknown
LABEL org.opencontainers.image.title="councilor-scheduler" \
      org.opencontainers.image.description="Schedules recurring agent runs from nothing but documents in MongoDB." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 8085
STOPSIGNAL SIGTERM
# A bare opener: no proxy from the environment, and a 503 prints which check fails. What listens
# everywhere is asked at home.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-I", "-c", "\
import os, sys, urllib.request as request; \
port = os.environ.get('SCHEDULER_HTTP_PORT', '').strip() or 8085; \
host = os.environ.get('SCHEDULER_HTTP_HOST', '').strip() or '127.0.0.1'; \
host = {'0.0.0.0': '127.0.0.1', '::': '[::1]'}.get(host, f'[{host}]' if ':' in host else host); \
opener = request.OpenerDirector(); \
opener.add_handler(request.HTTPHandler()); \
answer = opener.open(f'http://{host}:{port}/readyz', timeout=4); \
print(answer.read().decode()); \
sys.exit(answer.status != 200)"]
ENTRYPOINT ["councilor-scheduler"]
CMD ["run"]
