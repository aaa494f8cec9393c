# The service:  docker build -t okdhp .
# For an NVIDIA GPU:  docker build -t okdhp:gpu --build-arg EXTRA=gpu .  (CUDA comes with onnxruntime-gpu's packages, the
# driver from the host, by the NVIDIA Container Toolkit)
FROM python:3.11-slim-bookworm
ARG EXTRA=cpu
WORKDIR /okdhp

# What it needs is a layer of its own: it stays as it is while only our code changes.
COPY pyproject.toml constraints.txt ./
RUN mkdir app model training \
    && touch README.md app/__init__.py model/__init__.py training/__init__.py \
    && pip install --no-cache-dir --constraint constraints.txt --editable ".[$EXTRA]" \
    && rm -r model training \
    && useradd --no-create-home --uid 10000 okdhp
# Readable by all, whatever umask the checkout was made under.
COPY --chmod=755 app app
COPY --chmod=755 static static
COPY --chmod=755 weights weights

USER 10000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-m", "app.healthy"]
ENTRYPOINT ["okdhp"]
CMD ["serve"]
