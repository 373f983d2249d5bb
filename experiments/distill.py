"""Distillation: SFT of a small model on a large one's completions, beside RL alone.

DeepSeek-R1 (arXiv:2501.12948), sections 2.4 and 4.1: is a small model better taught or better
trained by RL? Stages samples, small_base, distilled and small_rl of r1.py.

    python -m r1jax.main --config=experiments/distill.py --workdir=/tmp/distill \
        --config.stages.samples.model.source=/tmp/r1/dev2/model

Whose completions are learnt is `samples.model.source`; without it the base's own. Loss on the
tokens alone, as in the report; `losses.distillation` has those on a teacher's logits.

tiny          the shipped miniature; some minutes on two CPU cores.
smollm2_135m  SmolLM2-135M-Instruct on GSM8K; see r1_zero.py for where it is.
qwen3_0_6b    Qwen3-0.6B-Base on GSM8K; one GPU with 80 GB.
qwen2_5_7b    Qwen2.5-7B, as in r1.py.

TPU slices: those that r1.py names for the same size.

`distill.py:tiny,debug` runs in seconds.
"""
import pathlib
import sys

from ml_collections import ConfigDict

sys.path.append(str(pathlib.Path(__file__).parent))
import r1

SIZES = r1.SIZES


def get_config(argument: str = 'tiny') -> ConfigDict:
  return r1.some_stages('distill.py', argument, ('samples', 'small_base', 'distilled', 'small_rl'))
