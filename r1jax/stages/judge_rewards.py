"""Judges as rewards of a run: models on its mesh, and servers."""
from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from r1jax.metrics.terminal import warn
from r1jax.models.compute import Compute
from r1jax.rewards.completion import Completion
from r1jax.rewards.judging import judge as judging
from r1jax.rewards.judging.cache import ReplyCache
from r1jax.rewards.judging.judge import Judge, Reply
from r1jax.rewards.judging.outside import OutsideJudge, OutsideJudges
from r1jax.rewards.judging.question import JudgeQuestion
from r1jax.rewards.judging.server import Server
from r1jax.runtime import hosts
from r1jax.runtime.storage import Path
from r1jax.stages.artifact import Artifact
from r1jax.stages.judge_model import JudgeModel, ModelJudge, load_judge_model
from r1jax.stages.judges import filled, make_judge


class Asks(Protocol):
  """Asks a judge that computes on the devices of the run."""

  def __call__(
      self, questions: Sequence[JudgeQuestion],
  ) -> tuple[dict[JudgeQuestion, list[Reply]], Compute]:
    """(all votes of each question, what they took to compute)."""


class JudgeReward(NamedTuple):
  """A judge on the mesh as a reward.

  Attributes:
    weight: of its reward in the total.
    judge: how it judges.
    ask: who replies.
  """
  weight: float
  judge: Judge
  ask: Asks


def score(
    judges: Mapping[str, JudgeReward], completions: Sequence[Completion],
    examples: Sequence[Mapping[str, Any]], *, prompt_opens_think: bool = False,
) -> tuple[dict[str, np.ndarray], dict[str, int], Compute]:
  """(the rewards of N completions by judges, counters, what these computed).

  Args:
    judges: by name.
    completions: N, by group.
    examples: those that they answer, a group's completions together.
    prompt_opens_think: whether the policy's prompts end with `<think>`.

  Returns:
    ({'judge/<name>': [N], NaN where it has not judged}, {'asked/judge/<name>': questions,
    'unread/judge/<name>': replies without a verdict, 'unjudged/judge/<name>': completions},
    what replying took).
  """
  group_size = len(completions) // len(examples)
  components: dict[str, np.ndarray] = {}
  counters: dict[str, int] = {}
  taken = Compute()
  for name, (_, judge, ask) in judges.items():
    cases = [judge.case(completion, examples[n // group_size],
                        prompt_opens_think=prompt_opens_think)
             for n, completion in enumerate(completions)]
    replies, took = ask(judging.distinct(cases))
    found = component(name)
    components[found], taken = judging.rewards(judge, cases, replies), taken + took
    counters |= judging.counters(found, judge, components[found], replies)
  return components, counters, taken


def component(name: str) -> str:
  """The name of a judge's component."""
  return f'judge/{name}'


def make_judges(
    config: Mapping[str, Any], part: Mapping[str, Any], *, mesh: jax.sharding.Mesh,
    should_stop: Callable[[], bool], load: Callable[[str, str], JudgeModel],
) -> dict[str, JudgeReward]:
  """The judges of a part of a config that are models on the mesh.

  Args:
    config: the stage's.
    part: of it, with the field `judges`.
    mesh: where the judges are.
    should_stop: as of `Sampler`.
    load: as `loader` returns it.

  Raises:
    FileNotFoundError, UserError: as `load_judge_model` and `ModelJudge`.
  """
  made = {}
  for name, given in part['judges'].items():
    settings = filled(given)
    if settings['source']:
      model = load(settings['source'], settings['preset'])
      made[name] = JudgeReward(settings['weight'], make_judge(settings), ModelJudge(
          name, settings, model, seed=config['seed'], mesh=mesh, should_stop=should_stop,
          compute_dtype=config['model']['compute_dtype'], chunk=config['sampling']['chunk'],
          rollout_sharding=config['sampling']['rollout_sharding']).ask)
  return made


def make_outside(
    config: Mapping[str, Any], part: Mapping[str, Any], *, workdir: Path, prompt_opens_think: bool,
) -> OutsideJudges | None:
  """The judges of a part of a config that are on servers, None where there are none.

  Args:
    config: the stage's.
    part: of it, with the field `judges`.
    workdir: the stage's folder, which keeps replies unless `cache` names another one.
    prompt_opens_think: whether the policy's prompts end with `<think>`.

  Raises:
    UserError: a server does not answer.
  """
  made = {}
  for name, given in part['judges'].items():
    settings = filled(given)
    if settings['url']:
      server = server_of(settings, config['seed'])
      for warning in hosts.together(functools.partial(server.check, f'judges.{name}.url')):
        if warning:
          warn(warning)
          break
      made[component(name)] = OutsideJudge(
          settings['weight'], make_judge(settings), server,
          ReplyCache(Path(settings['cache']) if settings['cache'] else workdir / 'judge_cache'),
          votes=settings['votes'], at_once=settings['at_once'], deadline_s=settings['deadline_s'])
  return OutsideJudges(made, prompt_opens_think=prompt_opens_think) if made else None


def server_of(settings: Mapping[str, Any], seed: int) -> Server:
  """The server of a judge with all these settings."""
  return Server(
      settings['url'], settings['model'], temperature=settings['temperature'], seed=seed,
      max_new_tokens=settings['max_new_tokens'], options=settings['options'],
      timeout_s=settings['timeout_s'])


def loader(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], mesh: jax.sharding.Mesh,
) -> Callable[[str, str], JudgeModel]:
  """(source, preset) -> a model that judges; one that is named twice is loaded once."""
  @functools.cache
  def load(source: str, preset: str) -> JudgeModel:
    return load_judge_model(source, inputs, mesh=mesh, preset=preset, remat=False,
                            compute_dtype=config['model']['compute_dtype'])
  return load
