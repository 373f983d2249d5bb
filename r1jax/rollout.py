"""From completions and rewards to a batch, metrics and samples: plain arguments, no config."""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.data.prompts import PromptBatch
from r1jax.records import Batch, Rollout
from r1jax.rewards.completion import Completion
from r1jax.rewards.judging.outside import OutsideJudges
from r1jax.rewards.language import is_mixed
from r1jax.rewards.suite import PendingRewards, Rewards, RewardSuite
from r1jax.rewards.text_statistics import reflective_words, repetition
from r1jax.runtime import hosts


class RolloutRewards:
  """The rewards of a rollout, some of whose completions may be judged while others are drawn.

  Each host judges the groups that it owns.
  """

  def __init__(
      self, suite: RewardSuite | OutsideJudges, examples: Sequence[Mapping], owners: np.ndarray,
      group_size: int):
    """Begins a batch of the suite, which `end` must end.

    Args:
      suite: the rewards.
      examples: the B examples that are answered, one for each group.
      owners: [B] as for `text.read_rollout`.
      group_size: G.
    """
    self._examples, self._group_size = examples, group_size
    self._owners = np.repeat(owners, group_size)
    own = np.flatnonzero(self._owners == hosts.index()).tolist()
    self._missing = {n: place for place, n in enumerate(own)}
    self._batch = suite.begin(group_size=group_size)

  def add(self, completions: Mapping[int, Completion]) -> None:
    """Has completions judged, by their numbers of N; those that are judged already are not."""
    new = [n for n in completions if n in self._missing]
    self._batch.add([self._missing.pop(n) for n in new], [completions[n] for n in new],
                    [self._examples[n // self._group_size] for n in new])

  def end(self, completions: Sequence[Completion]) -> PendingRewards:
    """Has the rest of all N completions judged.

    All hosts call this, and `collect` of what it returns, together; all get all rewards.
    """
    self.add(dict(enumerate(completions)))
    pending = self._batch.end()
    return PendingRewards(
        lambda: Rewards.concatenate(hosts.together(pending.collect)).scatter(self._owners))


def submit_rewards(
    suite: RewardSuite | OutsideJudges, completions: Sequence[Completion],
    examples: Sequence[Mapping], owners: np.ndarray,
) -> PendingRewards:
  """Starts computing the rewards of N completions, by group; as `RolloutRewards` of all at once."""
  group_size = len(completions) // len(examples)
  return RolloutRewards(suite, examples, owners, group_size).end(completions)


def batch_widths(limit: int) -> tuple[int, ...]:
  """The widths that batches are cut to: half of `limit`, rounded up to a multiple of 32, and all.

  Each is another program for an update, and all are compiled in the first iteration. So they are
  few: more of them would save at most half of the update of a batch without long completions.

  Args:
    limit: the largest length of a completion, in tokens.
  """
  half = 32 * -(-limit // 64)
  return (half, limit) if half < limit else (limit,)


def length_bucket(lengths: np.ndarray, limit: int) -> int:
  """The smallest of `batch_widths` that holds every length.

  Args:
    lengths: [N] int, of completions in tokens, at most `limit`.
    limit: the largest length, in tokens.
  """
  return min(width for width in batch_widths(limit) if width >= lengths.max())


def make_batch(rollout: Rollout, length: int | None = None) -> Batch:
  """A batch of a rollout, without advantages, old and reference log-probabilities, or values.

  Args:
    rollout: N completions of C tokens.
    length: columns to keep of C; None keeps all.
  """
  return Batch(
      prompt_tokens=rollout.prompts.tokens, prompt_lengths=rollout.prompts.lengths,
      completion_tokens=rollout.tokens[:, :length], completion_mask=rollout.mask[:, :length],
      behaviour_logprobs=rollout.behaviour_logprobs[:, :length])


def rollout_metrics(
    completions: Sequence[Completion], rewards: Rewards, *, group_size: int,
) -> dict[str, float]:
  """Metrics of a rollout, under the names of TRL and verl.

  Args:
    completions: N, a group's together.
    rewards: of these completions.
    group_size: G, a divisor of N.

  Returns:
    `reward` (mean over judged completions, absent if there are none), `reward_std` (mean over
    groups, which divide by the number judged − 1), `frac_reward_zero_std` (the share of groups that
    are not `unequal_groups`), `rewards/<name>/mean` and `/std` over judged completions (absent if
    there are none), `rewards/<counter>`, lengths in tokens and share of cut ones as
    `completions/*`, means over texts `reflective_words` and `repetition`, and the share
    `language_mixing`.
  """
  lengths = np.asarray([c.num_tokens for c in completions])
  truncated = np.asarray([c.truncated for c in completions], bool)
  terminated = lengths[~truncated]
  texts = [c.text for c in completions]
  judged = _judged(rewards.total)
  metrics: dict[str, Any] = {'reward': judged.mean()} if judged.size else {}
  metrics |= {
      'reward_std': _mean_deviation(rewards.total.reshape(-1, group_size)),
      'frac_reward_zero_std': np.mean(~unequal_groups(rewards, group_size)),
      'completions/mean_length': lengths.mean(), 'completions/min_length': lengths.min(),
      'completions/max_length': lengths.max(), 'completions/clipped_ratio': truncated.mean(),
      'completions/mean_terminated_length': terminated.mean() if terminated.size else 0.0,
      'reflective_words': np.mean([reflective_words(text) for text in texts]),
      'repetition': np.mean([repetition(text) for text in texts]),
      'language_mixing': np.mean([is_mixed(text) for text in texts])}
  for name, values in rewards.components.items():
    judged = _judged(values)
    if judged.size:
      metrics |= {f'rewards/{name}/mean': judged.mean(), f'rewards/{name}/std': judged.std()}
  metrics |= {f'rewards/{name}' if '/' in name else f'rewards/workers/{name}': count
              for name, count in rewards.counters.items()}
  return {name: float(value) for name, value in metrics.items()}


def unequal_groups(rewards: Rewards, group_size: int) -> np.ndarray:
  """[groups] bool: those in which two judged completions have different rewards."""
  grouped = rewards.total.reshape(-1, group_size)
  judged = ~np.isnan(grouped)
  return (np.where(judged, grouped, -np.inf).max(1)
          > np.where(judged, grouped, np.inf).min(1))


def _judged(values: np.ndarray) -> np.ndarray:
  return values[~np.isnan(values)]


def _mean_deviation(grouped: np.ndarray) -> float:
  """The mean over groups [B, G] of the deviation of what was judged; 0 where that is below two."""
  groups = [_judged(group) for group in grouped]
  return float(np.mean([group.std(ddof=1) if group.size > 1 else 0.0 for group in groups]))


def sample_rows(
    prompts: PromptBatch, prompt_texts: Sequence[str], completions: Sequence[Completion],
    rewards: Rewards, *, group_size: int,
) -> list[dict[str, Any]]:
  """One JSON-able dict per completion, for `metrics.RolloutWriter`.

  Args:
    prompts: B prompts; `language`, `task`, `objective` and `messages` are copied from their
      examples.
    prompt_texts: [B], how they are shown.
    completions: N = B·G, a group's together.
    rewards: of these completions; a NaN becomes None.
    group_size: G.
  """
  def component(values, n):
    return None if np.isnan(values[n]) else float(values[n])

  def named(example):
    return {field: example[field] for field in ('language', 'task', 'objective', 'messages')
            if example.get(field)}

  return [dict(
      example_id=int(prompts.example_ids[n // group_size]), sample=n % group_size,
      prompt=prompt_texts[n // group_size], completion=completion.text,
      num_tokens=completion.num_tokens, truncated=completion.truncated,
      num_prompt_tokens=int(prompts.prompt_lengths[n // group_size]),
      rewards={'reward': component(rewards.total, n)} | {
          name: component(values, n) for name, values in rewards.components.items()},
      **named(prompts.examples[n // group_size]))
      for n, completion in enumerate(completions)]


def repeat_examples(examples: Sequence[Mapping[str, Any]], group_size: int) -> list[Mapping]:
  """Each example `group_size` times: one for each completion, a group's together."""
  return [example for example in examples for _ in range(group_size)]
