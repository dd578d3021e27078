ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore \
    PIP_RETRIES=10 PIP_TIMEOUT=30
# The image's own pip installs into it, so that the venv carries none.
RUN python -m venv --without-pip /opt/venv
# The receiver's inner loops are compiled; a Python of Debian's has its headers in a package.
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && { test -e "$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" \
      || apt-get install -y --no-install-recommends python3-dev; } \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements.lock ./
RUN python -m pip --python /opt/venv install --require-hashes --only-binary :all: \
    -r requirements.lock
COPY pyproject.toml setup.py requirements.txt celeryconfig.py ./
COPY pacsor_tasks pacsor_tasks
COPY receiver receiver
COPY simulators simulators
# -I: not the sources of the working directory, which have nothing compiled.
RUN python -m pip --python /opt/venv install --no-deps . \
 && /opt/venv/bin/python -I -c 'import pacsor_tasks._native'

FROM ${PYTHON_IMAGE}
ARG VERSION=latest
LABEL org.opencontainers.image.title="pacsor-tasks" \
      org.opencontainers.image.description="The gateway between a hospital's imaging network and an AI service" \
      org.opencontainers.image.version="${VERSION}"
# Fixed numbers: they own the files of the data volume over every version of the image.
RUN groupadd --gid 10001 pacsor \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /app --shell /usr/sbin/nologin pacsor \
 && install -d -o pacsor -g pacsor -m 0750 /data
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY conf conf
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DATA_DIR=/data
USER 10001:10001
EXPOSE 1040 5555 7000
# Everything in one container; it needs BROKER_URL. docker-compose.yml runs the processes singly.
CMD ["pacsor", "up"]
