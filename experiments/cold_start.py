"""Cold start: SFT of the base on readable completions of R1-Zero.

DeepSeek-R1 (arXiv:2501.12948v2), the stage that leads to Dev1; stages cold_samples and dev1 of
r1.py.

    python -m r1jax.main --config=experiments/cold_start.py --workdir=/tmp/cold_start \
        --config.stages.cold_samples.model.source=/tmp/r1/zero/model

Whose completions are drawn is `cold_samples.model.source`, any model's folder; without it the
base's own. What was kept and what was refused, and why, lies beside as JSONL (samples, refused).
Data of one's own, JSONL of prompt, reasoning and summary: --config.stages.dev1.files="('mine.jsonl',)".

tiny          the shipped miniature; a minute or two on two CPU cores.
smollm2_135m  SmolLM2-135M-Instruct on GSM8K; see r1_zero.py for where it is.
qwen3_0_6b    Qwen3-0.6B-Base on GSM8K; one GPU with 80 GB.
qwen2_5_7b    Qwen2.5-7B, as in r1.py.

TPU slices: those that r1.py names for the same size.

`cold_start.py:tiny,debug` runs in seconds.
"""
import pathlib
import sys

from ml_collections import ConfigDict

sys.path.append(str(pathlib.Path(__file__).parent))
import r1

SIZES = r1.SIZES


def get_config(argument: str = 'tiny') -> ConfigDict:
  return r1.some_stages('cold_start.py', argument, ('cold_samples', 'dev1'))
