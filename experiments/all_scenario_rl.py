r"""All-scenario RL: rules for reasoning, reward models for general prompts.

DeepSeek-R1 (arXiv:2501.12948v2), the last stage, with the two reward models that it needs; stages
preference_samples, helpfulness, safety and r1 of r1.py. General prompts come in late, because the
policy learns to exploit a reward model in time: docs/results.md compares reward and truth.

    python -m r1jax.main --config=all_scenario_rl:tiny --workdir=/tmp/all_scenario_rl \
        --config.stages.r1.model.source=/tmp/r1/dev3/model \
        --config.stages.preference_samples.model.source=/tmp/r1/dev3/model

`r1.model.source` is the folder of a model after SFT over all domains; without it, the base is
trained.

tiny          The shipped miniature; a few minutes on two CPU cores. docs/results.md has what the
              whole chain reaches.
smollm2_135m  SmolLM2-135M-Instruct on GSM8K, whose folder is set as in r1_zero.py.
qwen3_0_6b    Qwen3-0.6B-Base on GSM8K; one GPU with 80 GB.
qwen2_5_7b    Qwen2.5-7B, as in r1.py.

TPU slices are those that r1.py names for the same size. `all_scenario_rl:tiny,debug` runs in
seconds.
"""
from ml_collections import ConfigDict

from r1jax.experiments import r1

SIZES = r1.SIZES
STAGES = ('preference_samples', 'helpfulness', 'safety', 'r1')


def get_config(argument: str = 'tiny') -> ConfigDict:
  return r1.part('all_scenario_rl.py', argument, STAGES)
