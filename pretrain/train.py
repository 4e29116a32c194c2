"""Train a GPT-2, or go on with the run that lies in run_dir.

python -m pretrain.train experiment=NAME data.index=DIR/index.json run_dir=RUN [key=value …]

  steps=N zero=stage2 precision=bf16 schedule.peak=1e-3 …       any setting of conf/train.yaml
  python -m pretrain.train --cfg job experiment=gpt2_124m       show the composed settings
  torchrun --standalone --nproc-per-node 8 -m pretrain.train …  one process for each of 8 GPUs
  python -m pretrain.train run_dir=RUN                          go on with what RUN began with

Stop with Ctrl-C, SIGTERM, SIGUSR1 or a file STOP in RUN: it saves, leaves with exit code 75, and
the same command goes on from there.
"""

import os
from functools import partial

from conf.command import run as run_command
from pretrain.guard.heartbeat import Page
from pretrain.guard.watchdog import watched
from pretrain.storage.durable import PRIVATE_UMASK
from pretrain.watching.last_words import last_words


def _train(page: Page) -> None:
    from pretrain.attempt import main  # noqa: PLC0415 - torch and CUDA are for the child of the fork alone

    run_command(partial(main, page=page), name="pretrain.train", config="train", usage=__doc__)


if __name__ == "__main__":
    os.umask(PRIVATE_UMASK)  # a run is its user's alone, also what libraries and the watchdog write of it
    watched(_train, last_words)
