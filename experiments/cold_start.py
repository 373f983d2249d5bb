r"""Cold start: SFT of the base on R1-Zero's readable completions.

DeepSeek-R1 (arXiv:2501.12948v2), the stage that leads to Dev1; stages cold_samples and dev1 of
r1.py.

    python -m r1jax.main --config=cold_start:tiny --workdir=/tmp/cold_start \
        --config.stages.cold_samples.model.source=/tmp/r1/zero/model

`cold_samples.model.source` is the folder of the model that is sampled; without it, the base is.
Which completions were kept, and which were refused and why, is written as JSONL to the stage's
folders `samples` and `refused`. To train on data of your own, JSONL with prompt, reasoning and
summary: --config.stages.dev1.files="('mine.jsonl',)".

tiny          The shipped miniature; a minute or two on two CPU cores. docs/results.md has what the
              whole chain reaches.
smollm2_135m  SmolLM2-135M-Instruct on GSM8K, whose folder is set as in r1_zero.py.
qwen3_0_6b    Qwen3-0.6B-Base on GSM8K; one GPU with 80 GB.
qwen2_5_7b    Qwen2.5-7B, as in r1.py.

TPU slices are those that r1.py names for the same size. `cold_start:tiny,debug` runs in seconds.
"""
from ml_collections import ConfigDict

from r1jax.experiments import r1

SIZES = r1.SIZES
STAGES = ('cold_samples', 'dev1')


def get_config(argument: str = 'tiny') -> ConfigDict:
  return r1.part('cold_start.py', argument, STAGES)
