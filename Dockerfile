# The service:  docker build -t okdhp .
# For an NVIDIA GPU:  docker build -t okdhp:gpu --build-arg EXTRA=gpu .  (CUDA comes with onnxruntime-gpu's packages, the
# driver from the host, by the NVIDIA Container Toolkit)
FROM python:3.11-slim-bookworm
ARG EXTRA=cpu
WORKDIR /okdhp

# What it needs is a layer of its own: it stays as it is while only our code changes.
COPY pyproject.toml constraints.txt ./
RUN mkdir app model training \
    && touch README.md \
    && pip install --no-cache-dir --constraint constraints.txt --editable ".[$EXTRA]" \
    && useradd --no-create-home --uid 10000 okdhp
COPY app app
COPY static static
COPY weights weights

USER 10000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ.get(\"POSE_PORT\", 8000)}/readyz', timeout=4)"]
ENTRYPOINT ["okdhp"]
CMD ["serve"]
