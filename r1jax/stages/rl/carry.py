"""Partial rollouts in a run: prompts of an iteration one by one, and what is carried on.

With `sampling.carry_over` an iteration ends when `prompts_per_batch` groups are complete; of the
others, everything that was drawn is carried into the next iteration, see `sampling.carried`. Each
example is trained on once: a group stays in the pool until it is in a batch, and an example that is
in the pool is skipped when the data reach it again.
"""
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax.data.prompts import Order, PromptBatch, PromptStream
from r1jax.errors import UserError
from r1jax.records import Rollout
from r1jax.sampling.carried import Carried, PoolDrawing, as_rollout
from r1jax.sampling.pool import Group
from r1jax.sampling.sampler import Sampler
from r1jax.stages import datasets
from r1jax.stages.datasets import Problems
from r1jax.stages.rl.prompts import Counters
from r1jax.tokenization import Tokenizer


class CarryOver(NamedTuple):
  """What a sampling pass carries on.

  Attributes:
    carried: the groups that it has not completed.
    measured: metrics of the batch.
  """
  carried: Carried
  measured: dict[str, float]


class CarriedRound(NamedTuple):
  """A sampling pass that has ended: as `Round`, before its completions are read."""
  prompts: PromptBatch
  next_counters: Counters
  rollout: Rollout         # on the host
  carry: CarryOver


def check_hosts(config: Mapping[str, Any], where: str) -> None:
  """Raises a UserError if the config carries rows over and several hosts run."""
  if config['sampling']['carry_over'] and jax.process_count() > 1:
    raise UserError(f'{where}.sampling.carry_over must be False on several hosts, got True with '
                    f'{jax.process_count()}: what is carried is kept on one host')


def nothing_carried(config: Mapping[str, Any]) -> Carried | None:
  """What the first iteration begins with; None without `sampling.carry_over`."""
  sampling = config['sampling']
  if not sampling['carry_over']:
    return None
  return Carried.none(config['prompts_per_batch'], config['max_prompt_length'],
                      config['group_size'], sampling['max_new_tokens'])


def carried_sampling(
    config: Mapping[str, Any], tokenizer: Tokenizer, problems: Problems,
) -> 'CarriedSampling | None':
  """The sampling passes of a config; None without `sampling.carry_over`."""
  if not config['sampling']['carry_over']:
    return None
  return CarriedSampling(config, tokenizer, problems)


class CarriedSampling:
  """Sampling passes that go on with the rows of earlier ones."""

  def __init__(self, config: Mapping[str, Any], tokenizer: Tokenizer, problems: Problems):
    """Opens the data; raises as `datasets.prompt_stream`."""
    self._config = config
    self._stream = datasets.prompt_stream(
        {**config, 'prompts_per_batch': 1}, tokenizer, problems, shuffle=True)

  def begin(self, sampler: Sampler, params: Any, carried: Carried, iteration: int,
            counters: Counters, order: Order | None) -> 'BegunCarriedRound':
    """Dispatches the first chunk of a sampling pass.

    Args:
      sampler: the run's.
      params: of the policy.
      carried: what earlier iterations did not complete; it is not changed.
      iteration: the number of the iteration, the version of the parameters.
      counters: the position in the data.
      order: as for `PromptStream.batch`.
    """
    config, groups = self._config, carried.groups()
    shape = config['group_size'], config['sampling']['max_new_tokens']
    new_groups = _NewGroups(self._stream, config, groups, iteration, counters.reasoning, order,
                            shape)
    drawing = sampler.begin_carried(
        params, groups, new_groups, iteration, num_prompts=config['prompts_per_batch'],
        max_staleness=config['sampling']['max_staleness'])
    return BegunCarriedRound(drawing, new_groups, carried, iteration, counters)


class BegunCarriedRound(NamedTuple):
  """A sampling pass that has begun on the devices."""
  drawing: PoolDrawing
  new_groups: '_NewGroups'
  before: Carried
  iteration: int
  counters: Counters

  def finish(self) -> CarriedRound:
    """What was drawn; raises as `PoolDrawing.finish`."""
    drawn, new = self.drawing.finish(), self.new_groups
    rollout, counters = as_rollout(drawn.batch), self.counters._replace(reasoning=new.counter)
    prompts: Any = rollout.prompts
    batch = PromptBatch(
        prompt_tokens=prompts.tokens, prompt_lengths=prompts.lengths,
        example_ids=prompts.example_ids, examples=new.examples(prompts.example_ids),
        next_counter=new.counter, num_skipped=new.num_skipped,
        num_spelling_control=new.num_spelling_control)
    measured = staleness(drawn.batch, self.iteration) | {
        'carry_over/groups': float(len(drawn.rest)),
        'carry_over/tokens': float(sum(group.lengths.sum() for group in drawn.rest))}
    return CarriedRound(batch, counters, rollout, CarryOver(
        self.before.holding(drawn.rest), measured))


def staleness(groups: Sequence[Group], iteration: int) -> dict[str, float]:
  """How old the tokens of a batch are, in iterations, and the share that is of earlier ones."""
  ages = np.concatenate([
      iteration - versions[:length] for group in groups
      for versions, length in zip(group.versions, group.lengths)])
  return {'carry_over/staleness/mean': float(ages.mean()),
          'carry_over/staleness/max': float(ages.max()),
          'carry_over/stale_tokens': float((ages > 0).mean())}


class _NewGroups(Iterator[Group]):
  """The groups of an iteration's prompts; it ends when all examples are in the pool.

  Attributes:
    counter: the position in the data after those that were taken.
    num_skipped, num_spelling_control: of these, as of `PromptBatch`.
  """

  def __init__(self, stream: PromptStream, config: Mapping[str, Any], carried: Sequence[Group],
               iteration: int, counter: int, order: Order | None, shape: tuple[int, int]):
    self._stream, self._config, self._order, self._shape = stream, config, order, shape
    self._iteration, self.counter = iteration, counter
    self._ids = {group.example_id for group in carried}
    self.num_skipped = self.num_spelling_control = 0

  def __next__(self) -> Group:
    counter, skipped = self.counter, 0
    # Any 2n - 1 consecutive places contain a whole epoch.
    while counter - self.counter < 2 * len(self._stream.indices):
      found = self._stream.batch(counter, self._order)
      counter, skipped = found.next_counter, skipped + found.num_skipped
      (example_id,) = found.example_ids.tolist()
      if example_id not in self._ids:
        self._ids.add(example_id)
        self.counter = counter
        self.num_skipped += skipped
        self.num_spelling_control += found.num_spelling_control
        return Group.new(found.prompt_tokens[0], int(found.prompt_lengths[0]), example_id,
                         self._iteration, self._shape)
    if len(self._ids) < self._config['prompts_per_batch']:
      raise UserError(
          f'Only {len(self._ids)} of the {len(self._stream.indices)} prompts have at most '
          f'max_prompt_length={self._config["max_prompt_length"]} tokens and prompts_per_batch='
          f'{self._config["prompts_per_batch"]} are needed: raise the former or lower the latter.')
    raise StopIteration

  def examples(self, ids: np.ndarray) -> list[Mapping[str, Any]]:
    """The examples of these ids."""
    return [self._stream.source[index] for index in ids.tolist()]
