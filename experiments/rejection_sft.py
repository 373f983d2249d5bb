"""Rejection sampling, and SFT over all domains.

DeepSeek-R1 (arXiv:2501.12948), section 2.3.3, the stage that leads to Dev3; stages samples and dev3
of r1.py: the base learns correct, readable completions of the reasoning model, and general data.

    python -m r1jax.main --config=experiments/rejection_sft.py --workdir=/tmp/rejection_sft \
        --config.stages.samples.model.source=/tmp/r1/dev2/model

Whose completions are drawn is `samples.model.source`; without it the base's own.

tiny          the shipped miniature; two or three minutes on two CPU cores.
smollm2_135m  SmolLM2-135M-Instruct on GSM8K; see r1_zero.py for where it is.
qwen3_0_6b    Qwen3-0.6B-Base on GSM8K; one GPU with 80 GB.
qwen2_5_7b    Qwen2.5-7B, as in r1.py.

TPU slices: those that r1.py names for the same size.

`rejection_sft.py:tiny,debug` runs in seconds.
"""
import pathlib
import sys

from ml_collections import ConfigDict

sys.path.append(str(pathlib.Path(__file__).parent))
import r1

SIZES = r1.SIZES


def get_config(argument: str = 'tiny') -> ConfigDict:
  return r1.some_stages('rejection_sft.py', argument, ('samples', 'dev3'))
