"""Reasoning RL: GRPO with accuracy, format and language-consistency rewards.

DeepSeek-R1 (arXiv:2501.12948), section 2.3.2, the stage that leads to Dev2; stage dev2 of r1.py.

    python -m r1jax.main --config=experiments/reasoning_rl.py --workdir=/tmp/reasoning_rl \
        --config.stages.dev2.model.source=/tmp/r1/dev1/model

It begins with `dev2.model.source`, a model after a cold start; without it with the base. The
ablation without the language reward: --config.stages.dev2.rewards.language=0.

tiny          the shipped miniature; some minutes on two CPU cores.
smollm2_135m  SmolLM2-135M-Instruct on GSM8K; see r1_zero.py for where it is.
qwen3_0_6b    Qwen3-0.6B-Base on GSM8K; one GPU with 80 GB.
qwen2_5_7b    Qwen2.5-7B, as in r1.py.

TPU slices: those that r1.py names for the same size.

`reasoning_rl.py:tiny,debug` runs in seconds.
"""
import pathlib
import sys

from ml_collections import ConfigDict

sys.path.append(str(pathlib.Path(__file__).parent))
import r1

SIZES = r1.SIZES


def get_config(argument: str = 'tiny') -> ConfigDict:
  return r1.some_stages('reasoning_rl.py', argument, ('dev2',))
