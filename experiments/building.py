"""What the experiment files build their configs with."""
from typing import Any

from ml_collections import ConfigDict

from r1jax.errors import UserError
from r1jax.runtime import sharding
from r1jax.stages import evaluate


def parse(file: str, argument: str, sizes: tuple[str, ...]) -> tuple[str, bool]:
  """Splits an experiment's argument, 'size' or 'size,debug'.

  Args:
    file: the experiment's file, for the message.
    argument: what stands after the colon of `--config=file.py:size,debug`.
    sizes: the sizes that the experiment has.

  Returns:
    The size, and whether debug is on.

  Raises:
    UserError: if the argument is neither of the two forms.
  """
  size, _, debug = argument.partition(',')
  if size not in sizes or debug not in ('', 'debug'):
    raise UserError(f'{file}:{argument} is unknown: use one of {", ".join(sizes)}, '
                     "alone or followed by ',debug'")
  return size, bool(debug)


def chain(stages: dict[str, ConfigDict]) -> ConfigDict:
  """The config of a chain of stages, in their order; `--config.seed=N` sets the seed of each."""
  config = ConfigDict(dict(seed=0, mesh=dict.fromkeys(sharding.AXES, 1)))
  config.stages = ConfigDict(sort_keys=False)
  for name, stage in stages.items():
    stage.seed = config.get_ref('seed')
    config.stages[name] = stage
  return config


CHOOSING = {'filter', 'curriculum'}    # fields of data that choose problems to learn from


def evaluation(stage: ConfigDict, **fields: Any) -> ConfigDict:
  """An evaluation on the test split of a stage's data, with the stage's template and sampling.

  Args:
    stage: a stage of RL. The data's folder and cache are shared with it by reference, so that a
      command-line override of the stage's reaches the evaluation too.
    **fields: of `evaluate.DEFAULT`, set on top.
  """
  config = ConfigDict(evaluate.DEFAULT)
  for field in {'folder', 'cache'} & set(stage.data):
    stage.data.get_ref(field)    # makes it a reference, which the copy below shares
  config.data = ConfigDict(stage.data)
  for field in CHOOSING & set(config.data):
    del config.data[field]
  config.template, config.max_prompt_length = stage.template, stage.max_prompt_length
  config.prompt = ConfigDict(stage.prompt)
  config.sampling = ConfigDict(stage.sampling)
  config.model.compute_dtype = stage.model.compute_dtype
  config.update(fields)
  return config
