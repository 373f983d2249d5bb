"""All-scenario RL: rules for reasoning, reward models for general prompts.

DeepSeek-R1 (arXiv:2501.12948v2), the last stage, with the two reward models that it needs; stages
preference_samples, helpfulness, safety and r1 of r1.py. General prompts come in late, since a reward model is
hacked in time: results.md has what it rewards beside the truth.

    python -m r1jax.main --config=experiments/all_scenario_rl.py --workdir=/tmp/all_scenario_rl \
        --config.stages.r1.model.source=/tmp/r1/dev3/model \
        --config.stages.preference_samples.model.source=/tmp/r1/dev3/model

It begins with `r1.model.source`, a model after SFT over all domains; without it with the base.

tiny          the shipped miniature; some minutes on two CPU cores.
smollm2_135m  SmolLM2-135M-Instruct on GSM8K; see r1_zero.py for where it is.
qwen3_0_6b    Qwen3-0.6B-Base on GSM8K; one GPU with 80 GB.
qwen2_5_7b    Qwen2.5-7B, as in r1.py.

TPU slices: those that r1.py names for the same size.

`all_scenario_rl.py:tiny,debug` runs in seconds.
"""
import pathlib
import sys

from ml_collections import ConfigDict

sys.path.append(str(pathlib.Path(__file__).parent))
import r1

SIZES = r1.SIZES


def get_config(argument: str = 'tiny') -> ConfigDict:
  return r1.some_stages('all_scenario_rl.py', argument, ('preference_samples', 'helpfulness', 'safety', 'r1'))
