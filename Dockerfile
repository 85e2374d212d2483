# The image of the scheduler. Needs neither BuildKit nor build arguments:
#   docker build -t councilor-scheduler .

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/councilor
WORKDIR /src
# Dependencies first: a change of the code alone does not install them again.
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*p['dependencies'], *p['optional-dependencies']['speed'], sep='\n')" > requirements.txt \
 && python -m pip --python /opt/councilor install --requirement requirements.txt
COPY LICENSE README.md ./
COPY service service
RUN python -m pip --python /opt/councilor install --no-deps .

# The same base again: the virtual environment points at its interpreter.
FROM ${PYTHON_IMAGE}
COPY --from=build /opt/councilor /opt/councilor
ENV PATH=/opt/councilor/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SCHEDULER_HTTP_HOST=0.0.0.0
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 8085
# A bare opener: no proxy from the environment, and a 503 prints which check fails.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-I", "-c", "\
import os, sys, urllib.request as request; \
port = os.environ.get('SCHEDULER_HTTP_PORT') or 8085; \
opener = request.OpenerDirector(); \
opener.add_handler(request.HTTPHandler()); \
answer = opener.open(f'http://127.0.0.1:{port}/readyz', timeout=4); \
print(answer.read().decode()); \
sys.exit(answer.status != 200)"]
ENTRYPOINT ["councilor-scheduler"]
CMD ["run"]
