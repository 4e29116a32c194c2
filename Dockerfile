# The project with its pinned packages, for machines with NVIDIA GPUs (the driver comes from the host).
#
#   docker build -t gpt2-pretrain .
#   docker run --gpus all --ipc=host -v "$PWD":/work gpt2-pretrain python -m pretrain.doctor
#
# For SLURM with pyxis/enroot: enroot import dockerd://gpt2-pretrain, then cluster.slurm.train.srun=[--container-image=…].
FROM python:3.11-slim-bookworm

# g++ and Python's headers (in the image) are what torch.compile needs; git names the code version in a run's record.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ git \
    && rm -rf /var/lib/apt/lists/*

# Torch first, in a layer of its own: it is large and changes with the pins only.
WORKDIR /opt/gpt2-pretrain
COPY pyproject.toml README.md LICENSE ./
RUN python -c 'import tomllib; print(*[d for d in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]], sep="\n")' > pins.txt \
    && pip install --no-cache-dir -r pins.txt

COPY conf ./conf
COPY data_prep ./data_prep
COPY pretrain ./pretrain
COPY slurm ./slurm
RUN pip install --no-cache-dir --no-deps .

# Shared memory for ranks on one node comes from --ipc=host; compiled kernels stay in the container.
ENV TORCHINDUCTOR_CACHE_DIR=/tmp/torchinductor
WORKDIR /work
CMD ["python", "-m", "pretrain.doctor"]
