"""The sampling passes of an iteration, and dynamic sampling: groups of unequal rewards preferred.

A group whose rewards are all equal has no group-relative advantage. With DAPO's dynamic sampling
(arXiv:2503.14476) more prompts are sampled until groups of unequal rewards fill the batch, or
`config.dynamic_sampling_rounds` more passes are made; then groups of equal rewards fill it.
Reasoning and general prompts fill their own parts of the batch. Rewards count with the length
penalty.
"""
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax import rollout as rollouts
from r1jax.data.curriculum import Curriculum
from r1jax.data.prompts import PromptBatch
from r1jax.models.compute import Compute
from r1jax.records import Batch, Rollout
from r1jax.rewards.completion import Completion
from r1jax.rewards.suite import PendingRewards, Rewards
from r1jax.sampling import drafts
from r1jax.sampling.drawing import Drawing
from r1jax.stages.rl.carry import CarryOver
from r1jax.stages.rl.prompts import Counters


class BegunRound(NamedTuple):
  """One sampling pass that has begun on the devices."""
  prompts: PromptBatch
  next_counters: Counters        # of the prompts after these
  drawing: Drawing


class Round(NamedTuple):
  """One sampling pass, whose rewards are being computed."""
  prompts: PromptBatch
  next_counters: Counters        # of the prompts after these
  rollout: Rollout
  completions: list[Completion]
  pending: PendingRewards
  judging: Compute               # what reward models computed
  carry: CarryOver | None = None # with `sampling.carry_over`


def sample_rounds(
    sample: Callable[[Counters], Round], collect: Callable[[Sequence[Round]], Rewards],
    counters: Counters, config: Mapping[str, Any], num_general: int = 0,
) -> list[Round]:
  """One sampling pass, or as many as dynamic sampling needs.

  Args:
    sample: from the position in the data to a round.
    collect: from rounds to their rewards; called by dynamic sampling alone, as it waits.
    counters: the position in the data of the first round.
    config: the stage's.
    num_general: general prompts of a batch, and of a round its last ones.
  """
  rounds = [sample(counters)]
  while len(rounds) <= config['dynamic_sampling_rounds']:
    unequal = rollouts.unequal_groups(collect(rounds), config['group_size'])
    if unequal[choose_groups(unequal, config['prompts_per_batch'], num_general)].all():
      break
    rounds.append(sample(rounds[-1].next_counters))
  return rounds


def completions_of(rounds: Sequence[Round]) -> list[Completion]:
  """The completions of all rounds."""
  return [completion for drawn in rounds for completion in drawn.completions]


def lengths_of(rounds: Sequence[Round], group_size: int) -> np.ndarray:
  """[groups of all rounds, group_size]: the tokens of the completions."""
  lengths = [completion.num_tokens for completion in completions_of(rounds)]
  return np.asarray(lengths).reshape(-1, group_size)


def choose_groups(unequal: np.ndarray, count: int, num_general: int = 0) -> np.ndarray:
  """[count]: the numbers, ascending, of the groups to train on.

  Of each kind of prompts, unequal groups are taken first, then others.

  Args:
    unequal: [groups of all rounds] bool.
    count: groups of a round, and of the batch.
    num_general: how many of them are of general prompts; of a round, the last ones.
  """
  general = np.arange(len(unequal)) % count >= count - num_general
  chosen = []
  for groups, wanted in ((np.flatnonzero(~general), count - num_general),
                         (np.flatnonzero(general), num_general)):
    chosen.append(groups[np.argsort(~unequal[groups], kind='stable')[:wanted]])
  return np.sort(np.concatenate(chosen))


def follow(
    curriculum: Curriculum, rounds: Sequence[Round], rewards: Rewards, *, reward: str,
    group_size: int, num_general: int,
) -> Curriculum:
  """The curriculum after the reasoning prompts of all rounds.

  Args:
    curriculum: that before them.
    rounds: of the iteration.
    rewards: of all their completions.
    reward: the name of the one by which a completion passes, with 1 or more.
    group_size: completions of a prompt.
    num_general: how many prompts of a round are general ones, the last.
  """
  for drawn, part in zip(rounds, rewards.split(len(rounds))):
    values = part.components[reward].reshape(-1, group_size)
    verdicts = np.where(np.isnan(values), np.nan, values >= 1)
    reasoning = len(verdicts) - num_general
    curriculum = curriculum.follow(
        drawn.prompts.example_ids[:reasoning], verdicts[:reasoning])
  return curriculum


def sampling_metrics(
    rounds: Sequence[Round], groups: np.ndarray, unequal: np.ndarray | None, group_size: int,
) -> dict[str, float]:
  """Counts of tokens and prompts and, with dynamic sampling, of groups kept and dropped."""
  lengths = lengths_of(rounds, group_size)
  measured = {
      'num_tokens': float(lengths.sum()),
      'num_trained_tokens': float(lengths[groups].sum()),
      'prompts/skipped': float(sum(drawn.prompts.num_skipped for drawn in rounds)),
      'prompts/spelling_control_tokens': float(sum(
          drawn.prompts.num_spelling_control for drawn in rounds))}
  measured |= drafts.metrics([drawn.rollout for drawn in rounds])
  if unequal is not None:
    equal_kept = (~unequal[groups]).sum()
    measured |= {
        'dynamic_sampling/rounds': float(len(rounds)),
        'dynamic_sampling/equal_kept': float(equal_kept),
        'dynamic_sampling/equal_dropped': float((~unequal).sum() - equal_kept),
        'dynamic_sampling/surplus': float(unequal.sum() - unequal[groups].sum())}
  return measured


def join_rounds(
    rounds: Sequence[Round], groups: np.ndarray, config: Mapping[str, Any], *,
    cut: Callable[..., Batch], exchange: Callable[..., Batch],
) -> Batch:
  """The batch of these groups of all rounds, with nothing but what was sampled.

  Args:
    rounds: one round, all of whose groups are taken, or those of dynamic sampling.
    groups: [B] the numbers of the groups, counted over all rounds.
    config: the stage's.
    cut: as in `programs.DevicePrograms`.
    exchange: likewise, with NumPy arrays of numbers and bools; for dynamic sampling.
  """
  length = config['sampling']['max_new_tokens']
  if not config['packing']['row_length']:    # packed rows have no padding to save
    length = rollouts.length_bucket(lengths_of(rounds, config['group_size'])[groups], length)
  batches = [cut(drawn.rollout, length=length) for drawn in rounds]
  batch = batches[0]
  if config['dynamic_sampling_rounds']:
    number, place = np.divmod(groups.astype(np.int32), config['prompts_per_batch'])
    for index, other in enumerate(batches):
      batch = exchange(batch, other, place, number == index)
  return batch
