# The README's set-up in a container:
#   docker build -t wsis_d2 .
#   docker build -t wsis_d2 --build-arg BASE=nvidia/cuda:12.8.1-cudnn-runtime-ubuntu24.04 .
# PyPI's PyTorch brings CUDA along. For CPUs alone, an image that is some gigabytes smaller:
#   docker build -t wsis_d2 --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu .
# The demo, and the same on your own photographs (on a GPU with --gpus all). The processes that load
# images need more shared memory than Docker's 64 MB:
#   docker run --rm --shm-size 2g -v "$PWD/output:/wsis_d2/output" wsis_d2
#   docker run --rm --shm-size 2g -v "$PWD/output:/wsis_d2/output" -v "$PWD:/data" wsis_d2 \
#     bash tools/demo.sh --photos /data/photos --labels /data/labels.csv
ARG BASE=debian:bookworm-slim
FROM ${BASE}

# The compiler and Python's headers are for pydensecrf2 and, on a GPU, for Triton.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        build-essential ca-certificates python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /wsis_d2
COPY . .
ARG PIP_EXTRA_INDEX_URL=
ARG PIP_NO_CACHE_DIR=1
RUN bash tools/setup_env.sh

ENV PATH=/wsis_d2/.venv/bin:$PATH
CMD ["bash", "tools/demo.sh"]
