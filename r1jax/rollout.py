"""Prompts → completions → rewards → batch: plain functions and arguments, no config."""
from collections.abc import Mapping, Sequence
import itertools
from typing import Any

import numpy as np

from r1jax.data.prompts import PromptBatch
from r1jax.records import Batch, Prompts, Rollout
from r1jax.rewards.completion import Completion
from r1jax.rewards.extract import THINK_OPENING
from r1jax.rewards.language import is_mixed
from r1jax.rewards.suite import PendingRewards, Rewards, RewardSuite
from r1jax.rewards.text_statistics import reflective_words, repetition
from r1jax.runtime import hosts, sharding
from r1jax.tokenization import Tokenizer


def device_prompts(prompts: PromptBatch) -> Prompts:
  """The part of a prompt batch that a device program takes."""
  return Prompts(prompts.prompt_tokens, prompts.prompt_lengths, prompts.example_ids)


def read_completions(
    tokens: np.ndarray, mask: np.ndarray, finished: np.ndarray, tokenizer: Tokenizer,
    stop_ids: Sequence[int],
) -> list[Completion]:
  """Host arrays of a rollout (tokens, mask [N, C], finished [N]) as N completions."""
  lengths = mask.astype(bool).sum(1)
  return [
      Completion(tokenizer.decode_completion(row[:length], stop_ids), int(length), not done)
      for row, length, done in zip(tokens, lengths, finished.tolist())]


def read_rollout(
    rollout: Rollout, owners: np.ndarray, tokenizer: Tokenizer, stop_ids: Sequence[int], mesh,
) -> list[Completion]:
  """All N completions on all hosts; each host reads those of the groups that it owns.

  Args:
    owners: [B] of `sharding.owners`.
    mesh: that the rollout is on; None: one device.
  """
  own = sharding.own_rows((rollout.tokens, rollout.mask, rollout.finished), mesh,
                          owners == hosts.index())
  parts = [iter(part) for part in hosts.gather(read_completions(*own, tokenizer, stop_ids))]
  group_size = rollout.tokens.shape[0] // owners.size
  return [completion for owner in owners
          for completion in itertools.islice(parts[owner], group_size)]


def submit_rewards(
    suite: RewardSuite, completions: Sequence[Completion], examples: Sequence[Mapping],
    owners: np.ndarray,
) -> PendingRewards:
  """Starts computing the rewards of N completions; each host judges the groups that it owns.

  All hosts call this, and `collect` of what it returns, together; all get all rewards.

  Args:
    suite: the rewards.
    completions: N completions, by group.
    examples: the B examples that they answer, one for each group.
    owners: [B] as for `read_rollout`.
  """
  group_size = len(completions) // len(examples)
  rows = np.repeat(owners, group_size)
  own = np.flatnonzero(rows == hosts.index()).tolist()
  pending = suite.submit([completions[n] for n in own], [examples[n // group_size] for n in own])
  return PendingRewards(
      lambda: Rewards.concatenate(hosts.together(pending.collect)).scatter(rows))


def length_bucket(lengths: np.ndarray, limit: int) -> int:
  """The least eighth of `limit`, rounded up to a multiple of 32, that holds every length.

  A batch is cut to it: short completions are trained at the price of short ones, and at most eight
  shapes are ever compiled.
  """
  unit = 32 * -(-limit // 256)
  return min(limit, unit * -(-int(lengths.max()) // unit))


def make_batch(rollout: Rollout, length: int | None = None) -> Batch:
  """What a loss eats, before anything is scored or credited; columns are cut to `length`."""
  cut = lambda x: x[:, :length]
  return Batch(
      prompt_tokens=rollout.prompts.tokens, prompt_lengths=rollout.prompts.lengths,
      completion_tokens=cut(rollout.tokens), completion_mask=cut(rollout.mask),
      behaviour_logprobs=cut(rollout.behaviour_logprobs))


def rollout_metrics(
    completions: Sequence[Completion], rewards: Rewards, *, group_size: int,
) -> dict[str, float]:
  """What is watched of a rollout, under the names that TRL and verl use.

  reward, reward_std (mean over groups, G − 1), frac_reward_zero_std, rewards/<name>/mean and /std
  over what was judged (absent where nothing was), completions/*, and of the texts reflective_words
  and repetition (means) and language_mixing (share).
  """
  grouped = rewards.total.reshape(-1, group_size)
  lengths = np.asarray([c.num_tokens for c in completions])
  cut = np.asarray([c.truncated for c in completions])
  whole = lengths[~cut]
  texts = [c.text for c in completions]
  metrics = {
      'reward': rewards.total.mean(),
      'reward_std': grouped.std(1, ddof=1).mean() if group_size > 1 else 0.0,
      'frac_reward_zero_std': np.mean((grouped == grouped[:, :1]).all(1)),
      'completions/mean_length': lengths.mean(), 'completions/min_length': lengths.min(),
      'completions/max_length': lengths.max(), 'completions/clipped_ratio': cut.mean(),
      'completions/mean_terminated_length': whole.mean() if whole.size else 0.0,
      'reflective_words': np.mean([reflective_words(text) for text in texts]),
      'repetition': np.mean([repetition(text) for text in texts]),
      'language_mixing': np.mean([is_mixed(text) for text in texts])}
  for name, values in rewards.components.items():
    judged = values[~np.isnan(values)]
    if judged.size:
      metrics |= {f'rewards/{name}/mean': judged.mean(), f'rewards/{name}/std': judged.std()}
  metrics |= {f'rewards/{name}' if '/' in name else f'rewards/workers/{name}': count
              for name, count in rewards.counters.items()}
  return {name: float(value) for name, value in metrics.items()}


def sample_records(
    prompts: PromptBatch, prompt_texts: Sequence[str], completions: Sequence[Completion],
    rewards: Rewards, *, group_size: int,
) -> list[dict[str, Any]]:
  """One JSON-able record a completion, as `metrics.RolloutWriter` keeps them.

  It has the `language`, the `task` and the `objective` that its example names.
  """
  def component(values, n):
    return None if np.isnan(values[n]) else float(values[n])

  def named(example):
    return {field: example[field] for field in ('language', 'task', 'objective')
            if example.get(field)}

  return [dict(
      example_id=int(prompts.example_ids[n // group_size]), sample=n % group_size,
      prompt=prompt_texts[n // group_size], completion=completion.text,
      num_tokens=completion.num_tokens, truncated=completion.truncated,
      num_prompt_tokens=int(prompts.prompt_lengths[n // group_size]),
      rewards={'reward': float(rewards.total[n])} | {
          name: component(values, n) for name, values in rewards.components.items()},
      **named(prompts.examples[n // group_size]))
      for n, completion in enumerate(completions)]


def repeat_examples(examples: Sequence[Mapping[str, Any]], group_size: int) -> list[Mapping]:
  """Each example once for each completion of its group."""
  return [example for example in examples for _ in range(group_size)]


def reopen(completion: Completion) -> Completion:
  """A completion whose prompt ended in `<think>`, with the tag put back."""
  return Completion(THINK_OPENING + completion.text, completion.num_tokens, completion.truncated)
