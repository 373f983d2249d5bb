r"""Reasoning RL: GRPO with accuracy, format and language-consistency rewards.

DeepSeek-R1 (arXiv:2501.12948), section 2.3.2, the stage that leads to Dev2; stage dev2 of r1.py.

    python -m r1jax.main --config=reasoning_rl:tiny --workdir=/tmp/reasoning_rl \
        --config.stages.dev2.model.source=/tmp/r1/dev1/model

`dev2.model.source` is the folder of a model after its cold start; without it, the base is trained.
The report's ablation without the language reward: --config.stages.dev2.rewards.language=0.

tiny          The shipped miniature; a few minutes on two CPU cores. docs/results.md has what the
              whole chain reaches.
smollm2_135m  SmolLM2-135M-Instruct on GSM8K, whose folder is set as in r1_zero.py.
qwen3_0_6b    Qwen3-0.6B-Base on GSM8K; one GPU with 80 GB.
qwen2_5_7b    Qwen2.5-7B, as in r1.py.

TPU slices are those that r1.py names for the same size. `reasoning_rl:tiny,debug` runs in seconds.
"""
from ml_collections import ConfigDict

from r1jax.experiments import r1

SIZES = r1.SIZES
STAGES = ('dev2',)


def get_config(argument: str = 'tiny') -> ConfigDict:
  return r1.part('reasoning_rl.py', argument, STAGES)
