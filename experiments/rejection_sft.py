r"""Rejection sampling, and SFT over all domains.

DeepSeek-R1 (arXiv:2501.12948), section 2.3.3, the stage that leads to Dev3; stages samples and dev3
of r1.py: SFT of the base on correct, readable completions of the reasoning model, and general data.

    python -m r1jax.main --config=rejection_sft:tiny --workdir=/tmp/rejection_sft \
        --config.stages.samples.model.source=/tmp/r1/dev2/model

`samples.model.source` is the folder of the model that is sampled; without it, the base is.

tiny          The shipped miniature; two or three minutes on two CPU cores. docs/results.md has what
              the whole chain reaches.
smollm2_135m  SmolLM2-135M-Instruct on GSM8K, whose folder is set as in r1_zero.py.
qwen3_0_6b    Qwen3-0.6B-Base on GSM8K; one GPU with 80 GB.
qwen2_5_7b    Qwen2.5-7B, as in r1.py.

TPU slices are those that r1.py names for the same size. `rejection_sft:tiny,debug` runs in seconds.
"""
from ml_collections import ConfigDict

from r1jax.experiments import r1

SIZES = r1.SIZES
STAGES = ('samples', 'dev3')


def get_config(argument: str = 'tiny') -> ConfigDict:
  return r1.part('rejection_sft.py', argument, STAGES)
