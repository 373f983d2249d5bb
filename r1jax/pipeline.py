"""Chains stages: each reads earlier Artifacts by name and leaves its own in `workdir/<name>`."""
from collections.abc import Callable, Mapping
from typing import Any

from r1jax import checkpoint, sharding
from r1jax.stages import common, evaluate, pretrain, reject, reward_model, rl, sft
from r1jax.storage import Path

KINDS = {'pretrain': pretrain, 'sft': sft, 'reject': reject, 'reward_model': reward_model, 'rl': rl,
         'evaluate': evaluate}
_TOP = dict(seed=0, stages={}, mesh=dict(fsdp=1, tensor=1))   # each stage has its own seed, too


def check(config: Mapping[str, Any]) -> None:
  """Refuses a config that cannot run, before anything is loaded.

  Raises:
    ValueError: naming the field and what it could be.
  """
  common.check_config({'seed': 0} | dict(config), _TOP, 'config')
  if not config['stages']:
    raise ValueError('config.stages is empty: name at least one stage')
  earlier = []
  for name, stage in config['stages'].items():
    if not isinstance(stage, Mapping):
      raise ValueError(f'config.stages.{name}={stage!r} is no stage: give it a kind and its fields')
    kind = stage.get('kind')
    common.check_choice(kind, KINDS, f'config.stages.{name}.kind')
    KINDS[kind].check(stage, f'config.stages.{name}')
    for needed in stage['inputs']:
      if needed not in earlier:
        raise ValueError(f'config.stages.{name}.inputs names {needed!r}, which is no earlier '
                         f'stage: use one of {earlier} or put it before')
    earlier.append(name)


def run(
    config: Mapping[str, Any], workdir: str | Path, *,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, common.Artifact]:
  """Runs the stages of a config in order and returns their Artifacts by name.

  A stage whose Artifact is there already, of the same config and the same inputs, is not run
  again; one that was interrupted goes on.

  Raises:
    ValueError, FileNotFoundError: in one sentence, what is wrong.
    stages.common.StopRequested: `should_stop` said so, and the stage has saved its state.
  """
  config = common.plain(config)
  check(config)
  mesh = sharding.make_mesh(**config['mesh'])
  artifacts: dict[str, common.Artifact] = {}
  for name, stage in config['stages'].items():
    folder = Path(workdir) / name
    inputs = {needed: artifacts[needed] for needed in stage['inputs']}
    if (folder / 'manifest.json').exists():
      found = common.open_artifact(folder)
      parents = tuple(artifact.manifest.config_hash for artifact in inputs.values())
      if (found.manifest.config_hash, found.manifest.parents) != (
          checkpoint.config_hash(stage), parents):
        raise ValueError(f'{folder} holds the result of another config of stage {name!r}: use '
                         'another workdir, or remove that folder to run the stage again')
      print(f'stage {name!r} is done: {folder}')
      artifacts[name] = found
      continue
    print(f'stage {name!r} ({stage["kind"]}) in {folder}')
    artifacts[name] = KINDS[stage['kind']].run(
        stage, inputs, folder, stage=name, mesh=mesh, should_stop=should_stop)
  return artifacts
