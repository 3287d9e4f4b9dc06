# The environment of the locks with the workflow in it.
#   docker build -t r2a .                                                 on CPUs
#   docker build -t r2a-gpu --build-arg ENVIRONMENT=gpu .                 on NVIDIA GPUs (run with --gpus all --ipc=host)
#   docker run --rm -v "$PWD/results:/r2a/results" r2a snakemake
FROM python:3.12-slim-bookworm

ARG ENVIRONMENT=cpu
# An index with torch's CPU build (PyTorch's installation page names one) saves 3 GB; the default build runs on CPUs, too.
ARG TORCH_INDEX=

# vLLM on a CPU is linked to libnuma; on a GPU, Triton compiles a small driver with gcc.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libnuma1 make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /r2a
COPY envs envs
RUN PIP_EXTRA_INDEX_URL="$TORCH_INDEX" PIP_NO_CACHE_DIR=1 bash envs/install.sh "$ENVIRONMENT" python

COPY . .
# As in any folder, the profile in profiles/default is found and results go to results/.
ENV PYTHONUNBUFFERED=1 HF_HOME=/r2a/results/.huggingface
CMD ["snakemake", "--cores", "all"]
