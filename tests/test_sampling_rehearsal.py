"""A rehearsal runs what a rollout runs."""
import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import models
from r1jax.records import Prompts
from r1jax.sampling.rehearsal import lognormal_lengths, rehearse
from r1jax.sampling.sampler import Sampler

BATCHES, PROMPTS, GROUP, LIMIT = 2, 4, 4, 24


@pytest.mark.parametrize('slots, streams', [(0, False), (6, False), (6, True)])
def test_a_rehearsal_counts_what_a_rollout_runs(slots, streams):
  model = models.build(models.PRESETS['tiny_qwen3'])
  sampler = Sampler(model, group_size=GROUP, max_new_tokens=LIMIT, chunk=5, slots=slots,
                    stop_ids=tuple(range(0, 512, 16)))
  ran = collections.Counter()

  def counted(name, program):
    def run(*args, **keywords):
      ran[f'{name} {keywords["num_rows"]}' if name == 'decode_chunk' else name] += 1
      return program(*args, **keywords)
    return run
  sampler.programs = sampler.programs._replace(**{
      name: counted(name, getattr(sampler.programs, name))
      for name in ('prefill', 'admit', 'move', 'decode_chunk')})
  params = model.init(jax.random.key(0))
  batches = [
      Prompts(jnp.full((PROMPTS, 3), 5 + i), jnp.full(PROMPTS, 3), jnp.arange(PROMPTS) + 9 * i)
      for i in range(BATCHES if streams else 1)]
  rollouts = list(sampler.stream(params, batches, 0)) if streams else [
      sampler(params, batches[0], 0)]
  lengths = np.array([np.sum(one.mask, 1) for one in rollouts], int)
  assert 1 < np.mean(lengths) < LIMIT
  before = dict(ran)
  found = rehearse(sampler, lengths.reshape(-1, PROMPTS, GROUP))
  assert dict(ran) == before     # no program of the sampler itself was called
  assert before == {name: count for name, count in (
      ('prefill', found.prefills), ('admit', found.admits), ('move', found.moves),
      *((f'decode_chunk {one.rows}', one.calls) for one in found.chunks)) if count}
  assert sum(one.drawn for one in found.chunks) == np.sum(lengths)
  assert found.row_steps >= np.sum(lengths) == pytest.approx(found.useful * found.row_steps)
  # Row-steps in flight read the tokens before them: 0, 1, 2, ... of each completion.
  read = sum(one.columns * one.rows * one.steps for one in found.chunks)
  assert read == pytest.approx(np.sum(lengths * (lengths - 1) / 2))


def test_fewer_slots_waste_fewer_steps():
  model = models.build(models.PRESETS['tiny_qwen3'])
  lengths = lognormal_lengths(128, 512, 0.3 * 512).reshape(1, 4, 32)
  useful = [rehearse(Sampler(model, group_size=32, max_new_tokens=512, stop_ids=(0,), slots=slots),
                     lengths).useful for slots in (0, 32)]
  assert useful[0] < useful[1] and useful[1] > 0.85


@pytest.mark.parametrize('mean', [40, 150, 300, 500])
def test_lengths_have_their_mean_and_keep_to_the_limit(mean):
  lengths = lognormal_lengths(256, 512, mean)
  assert np.mean(lengths) == pytest.approx(mean, rel=0.01)
  assert 1 <= np.min(lengths) < mean < np.max(lengths) <= 512
  assert list(lengths) == list(lognormal_lengths(256, 512, mean)) != sorted(lengths)


def test_lengths_of_the_limit_are_all_the_limit():
  assert set(lognormal_lengths(16, 512, 512)) == {512}
