"""Checks what a chain of stages would load, before any of them computes."""
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from r1jax.errors import UserError
from r1jax.runtime import sharding
from r1jax.runtime.storage import Path, to_json
from r1jax.stages import evaluate, judge_model, judge_rewards, loading
from r1jax.stages.artifact import TRAINED
from r1jax.stages.config import check_mesh
from r1jax.stages.fields import check_rewards
from r1jax.stages.judges import filled

Stages = Mapping[str, Mapping[str, Any]]


def check(
    stages: Stages, names: Iterable[str], kinds: Mapping[str, Any], mesh: jax.sharding.Mesh,
) -> None:
  """Checks mesh, rewards, models and data of stages of a chain, without reading weights.

  A stage that begins with the model of an earlier stage is checked with what that one begins with:
  it has the same shape and tokenizer. Where that is trained from nothing, only the mesh is checked.

  Args:
    stages: all of the chain, each right by itself.
    names: those to check.
    kinds: the modules of stages by kind.
    mesh: on which they are to run.

  Raises:
    FileNotFoundError, UserError: naming what is wrong.
  """
  seen: set[str] = set()
  for name in names:
    where, stage = f'config.stages.{name}', stages[name]
    check_mesh(stage, mesh, where)
    if stage.get('in_host_memory'):
      sharding.check_host_memory(mesh, f'{where}.in_host_memory={list(stage["in_host_memory"])}')
    check_rewards(stage, where)
    _check_reward_models(stages, stage, where)
    _check_pass_rates(stages, stage, where)
    source = _root(stages, stage)
    if source is None:
      continue
    rooted = _rooted(stages, stage, source)
    loading.check_models(rooted, {}, mesh, where)
    tokenizer = loading.find_tokenizer(source, {})
    kinds[stage['kind']].check_data(rooted, tokenizer)
    for one in rooted.get('evaluations', {}).values():
      of_stage = one['model']['source'] == TRAINED
      key = to_json({name: one[name] for name in (
          'data', 'split', 'template', 'prompt', 'max_prompt_length', 'overlong', 'problems',
          'shots', 'seed')} | {'tokenizer': source if of_stage else one['model']['source']})
      if key not in seen:
        seen.add(key)
        evaluate.problem_stream(one, tokenizer if of_stage else loading.find_tokenizer(
            one['model']['source'], {}))


def _root(stages: Stages, stage: Mapping[str, Any]) -> str | None:
  """The source outside the chain from which a stage's model descends; None if there is none."""
  while 'model' in stage:
    source = stage['model']['source']
    if source not in stages:
      return source
    stage = stages[source]
  return None


def _rooted(stages: Stages, stage: Mapping[str, Any], source: str) -> dict[str, Any]:
  """A stage's config with sources outside the chain in place of stages."""
  evaluations = {}
  for name, one in stage.get('evaluations', {}).items():
    if one['model']['source'] != TRAINED:
      found = _root(stages, one)
      if found is None:
        continue
      one = {**one, 'model': {**one['model'], 'source': found}}
    evaluations[name] = one
  rooted = {**stage, 'model': {**stage['model'], 'source': source}}
  return rooted | ({'evaluations': evaluations} if 'evaluations' in stage else {})


def _check_reward_models(stages: Stages, stage: Mapping[str, Any], where: str) -> None:
  """Refuses reward models and judges that are not there."""
  general = stage.get('general_prompts', {})
  for part, path in ((stage, where), (general, f'{where}.general_prompts')):
    for name, settings in part.get('reward_models', {}).items():
      source = settings['source']
      if source not in stages and not (Path(source) / 'manifest.json').exists():
        raise FileNotFoundError(
            f'{path}.reward_models.{name}.source={source!r} is neither a stage nor the folder of '
            "an Artifact: name a stage of kind 'reward_model', or the folder that it has left")
    for name, settings in part.get('judges', {}).items():
      _check_judge(stages, filled(settings), f'{path}.judges.{name}')


def _check_judge(stages: Stages, settings: Mapping[str, Any], where: str) -> None:
  """Refuses a judge that is not there, or that is a stage that leaves no model that replies."""
  source = settings['source']
  if not source:
    judge_rewards.server_of(settings, 0).check(f'{where}.url')
  elif source not in stages:
    judge_model.check_judge(settings, where)
  elif stages[source]['kind'] not in ('pretrain', 'sft', 'rl'):
    raise UserError(f'{where}.source={source!r} is a stage of kind {stages[source]["kind"]!r}, '
                    "which leaves no model that replies: name one of kind 'pretrain', 'sft' or "
                    "'rl'")


def _check_pass_rates(stages: Stages, stage: Mapping[str, Any], where: str) -> None:
  """Refuses stages of another kind where pass rates are read."""
  for part in ('filter', 'curriculum'):
    source = stage.get('data', {}).get(part, {}).get('source')
    kind = stages[source]['kind'] if source in stages else 'pass_rate'
    if kind != 'pass_rate':
      raise UserError(f'{where}.data.{part}.source={source!r} is a stage of kind {kind!r}: name '
                      "one of kind 'pass_rate'")
