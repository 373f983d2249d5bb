r"""Distillation: SFT of a small model on a large one's completions, compared with RL alone.

DeepSeek-R1 (arXiv:2501.12948), sections 2.4 and 4.1: is a small model better taught by a large one
or trained by RL itself? Stages samples, small_base, distilled and small_rl of r1.py.

    python -m r1jax.main --config=distill:tiny --workdir=/tmp/distill \
        --config.stages.samples.model.source=/tmp/r1/dev2/model

`samples.model.source` is the folder of the teacher; without it, the base's own completions are
used. The loss is on tokens alone, as in the report; `losses.distillation` has losses on a teacher's
logits.

tiny          The shipped miniature; a few minutes on two CPU cores. docs/results.md has what the
              whole chain reaches.
smollm2_135m  SmolLM2-135M-Instruct on GSM8K, whose folder is set as in r1_zero.py.
qwen3_0_6b    Qwen3-0.6B-Base on GSM8K; one GPU with 80 GB.
qwen2_5_7b    Qwen2.5-7B, as in r1.py.

TPU slices are those that r1.py names for the same size. `distill:tiny,debug` runs in seconds.
"""
from ml_collections import ConfigDict

from r1jax.experiments import r1

SIZES = r1.SIZES
STAGES = ('samples', 'small_base', 'distilled', 'small_rl')


def get_config(argument: str = 'tiny') -> ConfigDict:
  return r1.part('distill.py', argument, STAGES)
