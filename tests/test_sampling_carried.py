import jax
import numpy as np
import pytest

from r1jax.models import ModelConfig, build
from r1jax.runtime import sharding
from r1jax.sampling.carried import Carried, as_rollout
from r1jax.sampling.draw import Sampling
from r1jax.sampling.pool import Group, Pool
from r1jax.sampling.sampler import Sampler
from r1jax.sampling.schedule import Layout
from r1jax.training.logprobs import completion_logprobs

STOPS = (3, 21)
SIZE, GROUP, BATCH, LENGTH = 24, 2, 4, 6


def new_groups(iteration, counter):
  """Endless groups; `counter` is a list of the number of those that were taken."""
  while True:
    rng = np.random.default_rng(counter[0])
    group = Group.new(rng.integers(0, 40, LENGTH, np.int32), int(rng.integers(1, LENGTH + 1)),
                      counter[0], iteration, (GROUP, SIZE))
    counter[0] += 1
    yield group


def versions_of(params, count):
  """The parameters of several iterations."""
  return [jax.tree.map(lambda x, i=i: x * (1 + 0.2 * i), params) for i in range(count)]


def draw_iterations(model, versions, *, max_staleness=1, chunk=3, slots=6, cache_dtype=''):
  """[(the batch, (prompts that were taken, what is carried)) of each iteration]."""
  sampler = Sampler(model, group_size=GROUP, max_new_tokens=SIZE, stop_ids=STOPS, chunk=chunk,
                    sampling=Sampling(), slots=slots, cache_dtype=cache_dtype)
  counter, carried, found = [0], Carried.none(BATCH, LENGTH, GROUP, SIZE), []
  for iteration, params in enumerate(versions):
    drawn = sampler.begin_carried(
        params, carried.groups(), new_groups(iteration, counter), iteration, num_prompts=BATCH,
        max_staleness=max_staleness).finish()
    carried = carried.holding(drawn.rest)
    found.append((drawn.batch, (counter[0], carried)))
  return found


@pytest.fixture(scope='module')
def drawn(tiny):
  versions = versions_of(tiny.params, 5)
  return versions, draw_iterations(tiny.model, versions)


def assert_drawn_by_their_versions(versions, batches, teacher_forced):
  """Every recorded log-probability is that of the version that drew the token."""
  for groups in batches:
    rollout = as_rollout(groups)
    drawn_by = np.concatenate([group.versions for group in groups])
    for version in np.unique(drawn_by[rollout.mask > 0]):
      forced, _ = teacher_forced(versions[version], rollout.prompts, rollout.tokens, 1.0)
      own = (drawn_by == version) & (rollout.mask > 0)
      np.testing.assert_allclose(
          np.where(own, rollout.behaviour_logprobs, 0), np.where(own, forced, 0), atol=2e-4)


def test_each_logprob_is_that_of_the_version_that_drew_the_token(drawn, teacher_forced):
  versions, found = drawn
  assert_drawn_by_their_versions(versions, [batch for batch, _ in found], teacher_forced)
  mixed = [np.unique(group.versions[row, :length]).size > 1 for batch, _ in found
           for group in batch for row, length in enumerate(group.lengths)]
  assert sum(mixed) >= 3      # rows of two versions, or nothing was tried


def test_groups_are_in_order_once_and_never_older_than_the_bound(drawn):
  _, found = drawn
  done = set()
  for iteration, (batch, (counter, carried)) in enumerate(found):
    ids = [group.example_id for group in batch]
    assert ids == sorted(ids) and len(ids) == BATCH and not done & set(ids)
    assert all(not group.undone.size and group.begun >= iteration - 1 for group in batch)
    done |= set(ids)
    waiting = {group.example_id for group in carried.groups()}
    assert len(waiting) <= BATCH
    assert waiting | done == set(range(counter)) and not waiting & done


@pytest.mark.parametrize('max_staleness', [1, 2, 4])
@pytest.mark.parametrize('shards', [1, 2])
def test_the_bound_holds_and_is_reached_where_one_row_is_slow(max_staleness, shards):
  """The schedule alone: a row in ten is drawn for ten times as long as the others."""
  layout = Layout.of(shards=shards, prompts=8, group_size=2, slots=12, batches=2)
  rng, ages, begun, carried, left = np.random.default_rng(0), [], set(), [], {}
  for iteration in range(30):
    def groups(iteration=iteration):
      while True:
        group = Group.new(np.zeros(LENGTH, np.int32), 1, len(begun), iteration, (2, SIZE))
        begun.add(group.example_id)
        for sample in range(2):
          left[group.example_id, sample] = 200 if rng.random() < 0.1 else int(rng.integers(1, 20))
        yield group
    pool, new = Pool(layout, carried, due=iteration - max_staleness), groups()
    while not pool.is_complete:
      pool.fill(new)
      while pool.read() is not None:
        pass
      pool.enter()
      active = np.zeros((shards, layout.slots), bool)
      for (s, slot), _ in np.ndenumerate(active):
        if (row := pool.row(s, slot)) is not None:
          left[row.group.example_id, row.sample] -= 1
          active[s, slot] = left[row.group.example_id, row.sample] > 0
          row.group.lengths[row.sample] = 1
          row.group.finished[row.sample] = not active[s, slot]
      pool.finish(active)
    batch, carried = pool.split()
    assert len(batch) == 8 and len(carried) <= 8
    ages += [iteration - group.begun for group in batch]
  assert max(ages) == max_staleness and min(ages) == 0


CASES = {
    'a window': (ModelConfig(
        family='gemma3_text', vocab_size=40, width=16, num_heads=4, head_dim=8, mlp_width=24,
        num_layers=2, num_kv_heads=2, window=7, local_rope_theta=100.0,
        layers=((('local', 'dense'), 1),), query_scale=12.0), ''),
    'eight bits': (None, 'int8')}


@pytest.mark.parametrize('case', CASES)
def test_a_cache_that_is_computed_anew_is_the_one_that_decoding_leaves(case, tiny, random_params):
  """Of the same parameters: rows that are carried draw what they would have drawn at once."""
  config, cache_dtype = CASES[case]
  model = build(config) if config else tiny.model
  params = random_params(model)
  found = draw_iterations(model, [params] * 2, cache_dtype=cache_dtype)
  rows = [(group, sample) for group in found[1][0] for sample in range(GROUP)
          if np.unique(group.versions[sample, :group.lengths[sample]]).size > 1]
  assert rows
  whole = as_rollout([group for group, _ in rows])
  forced, _, _ = completion_logprobs(
      model, params, whole.prompts.tokens, whole.prompts.lengths, whole.tokens, whole.mask,
      temperature=1.0)
  np.testing.assert_allclose(whole.behaviour_logprobs * whole.mask, forced * whole.mask,
                             atol=0.15 if cache_dtype else 2e-4)


def test_rows_are_carried_on_a_mesh(tiny, teacher_forced):
  versions = versions_of(tiny.params, 3)
  with sharding.use(sharding.make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:4])):
    found = draw_iterations(tiny.model, versions)
  assert any(carried.groups() for _, (_, carried) in found[:-1])
  assert_drawn_by_their_versions(versions, [batch for batch, _ in found], teacher_forced)
