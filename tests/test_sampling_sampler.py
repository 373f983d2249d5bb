import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from whole_batch_sampler import sample_whole_batches

from r1jax.models import build
from r1jax.records import Prompts
from r1jax.runtime import sharding
from r1jax.sampling.draw import Sampling
from r1jax.sampling.drawing import Interrupted
from r1jax.sampling.sampler import Sampler
from r1jax.training.logprobs import completion_logprobs

GREEDY = Sampling(temperature=0)
TRUNCATING = Sampling(temperature=0.6, top_k=9, top_p=0.9, min_p=0.05)
STOPS = (3, 8, 21, 30)


@pytest.fixture(scope='module')
def sampler(tiny):
  """Samplers of the tiny model; equal settings share their compiled programs."""
  made = {}

  def make(**settings):
    settings = dict(group_size=2, max_new_tokens=6, stop_ids=STOPS, chunk=6,
                    sampling=Sampling(), seed=0) | settings
    key = tuple(settings.values())
    if key not in made:
      made[key] = Sampler(tiny.model, **settings)
    return made[key]
  return make


def kept(rollout, name='tokens'):
  """A field of a rollout, zero outside its mask."""
  return np.where(rollout.mask, getattr(rollout, name), 0)


@pytest.mark.parametrize('sampling', [Sampling(), TRUNCATING, GREEDY])
def test_pitfall_11_recorded_logprobs_equal_teacher_forced_ones(
    sampling, sampler, tiny, prompts, teacher_forced):
  rollout = sampler(sampling=sampling)(tiny.params, prompts, 0)
  forced, _ = teacher_forced(
      tiny.params, prompts, rollout.tokens, sampling.temperature or 1.0)
  assert np.sum(rollout.mask) > 20
  np.testing.assert_allclose(
      kept(rollout, 'behaviour_logprobs'), np.where(rollout.mask, forced, 0), atol=1e-4)
  if not sampling.truncates:
    np.testing.assert_array_equal(rollout.truncated_logprobs, rollout.behaviour_logprobs)
  else:      # pitfall 5: both are kept, and what is sampled from has more mass on a token
    assert np.all(kept(rollout, 'truncated_logprobs') >= kept(rollout, 'behaviour_logprobs') - 1e-5)
    assert np.max(rollout.truncated_logprobs - rollout.behaviour_logprobs) > 0.05


@pytest.mark.parametrize('sampling', [Sampling(), TRUNCATING, GREEDY])
def test_pitfall_29_ids_without_a_token_are_neither_drawn_nor_counted(sampling, tiny, prompts):
  mask = np.arange(40) < 34
  mask[[4, 9]] = False
  model = build(tiny.model.config, token_mask=mask)
  table = tiny.params['embedding'].at[~mask].multiply(9.0)     # they would often be drawn
  params = tiny.params | {'embedding': table}
  settings = dict(group_size=2, max_new_tokens=6, stop_ids=STOPS, chunk=3, sampling=sampling)
  plain = kept(Sampler(tiny.model, **settings)(params, prompts, 0))
  assert not mask[plain].all()
  rollout = Sampler(model, **settings)(params, prompts, 0)
  assert mask[kept(rollout)].all()
  scored, _, _ = completion_logprobs(
      model, params, prompts.tokens, prompts.lengths, rollout.tokens, rollout.mask,
      temperature=sampling.temperature)
  np.testing.assert_allclose(
      kept(rollout, 'behaviour_logprobs'), np.where(rollout.mask, scored, 0), atol=1e-4)
  hidden = jnp.ones((1, tiny.model.config.width))
  logits = model.unembed(params, hidden)
  assert (logits[0, ~mask] == -1e30).all() and (jnp.abs(logits[0, mask]) < 1e3).all()


def test_pitfall_12_fresh_randomness_that_resuming_repeats(sampler, tiny, prompts):
  first, again, other = (kept(sampler()(tiny.params, prompts, i)) for i in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert np.sum(np.any(first != other, 1)) >= 6
  by_group = first.reshape(4, 2, -1)
  assert np.any(by_group[:, 0] != by_group[:, 1], 1).all()


def test_pitfall_12_greedy_depends_on_neither_seed_nor_iteration(sampler, tiny, prompts):
  first = kept(sampler(sampling=GREEDY)(tiny.params, prompts, 0))
  other = kept(sampler(sampling=GREEDY, seed=1)(tiny.params, prompts, 5))
  np.testing.assert_array_equal(first, other)
  np.testing.assert_array_equal(first[::2], first[1::2])


def test_pitfall_13_a_row_depends_on_its_own_key_and_prompt_alone(sampler, tiny, prompts):
  want = sampler()(tiny.params, prompts, 0)
  # The same prompts in another order, among others, padded wider, in larger groups.
  rng, places = np.random.default_rng(5), [4, 0, 5, 2]
  tokens, lengths, ids = rng.integers(0, 40, (6, 9)), np.full(6, 8), np.arange(20, 26)
  tokens[places, :6], lengths[places] = prompts.tokens, prompts.lengths
  ids[places] = prompts.example_ids
  other = Prompts(jnp.asarray(tokens, jnp.int32), jnp.asarray(lengths), jnp.asarray(ids))
  got = sampler(group_size=3)(tiny.params, other, 0)
  for name, atol in (('tokens', 0), ('behaviour_logprobs', 1e-5)):
    rows = kept(got, name).reshape(6, 3, -1)[places, :2].reshape(8, -1)
    np.testing.assert_allclose(rows, kept(want, name), atol=atol)


def test_pitfall_14_the_sampler_uses_the_parameters_that_it_is_given(
    sampler, tiny, prompts, teacher_forced, random_params):
  before = kept(sampler()(tiny.params, prompts, 0))
  updated = random_params(tiny.model, seed=1)
  rollout = sampler()(updated, prompts, 0)
  forced, _ = teacher_forced(updated, prompts, rollout.tokens, 1.0)
  np.testing.assert_allclose(
      kept(rollout, 'behaviour_logprobs'), np.where(rollout.mask, forced, 0), atol=1e-4)
  assert np.any(kept(rollout) != before)
  np.testing.assert_array_equal(kept(sampler()(tiny.params, prompts, 0)), before)


def test_pitfall_03_the_stop_token_is_inside_the_mask_and_nothing_after_it(sampler, tiny, prompts):
  rollout = sampler()(tiny.params, prompts, 0)
  for tokens, mask, finished in zip(*map(np.asarray, (
      rollout.tokens, rollout.mask, rollout.finished))):
    stops = np.flatnonzero(np.isin(tokens, STOPS))
    length = stops[0] + 1 if stops.size else 6
    np.testing.assert_array_equal(mask, np.arange(6) < length)
    assert finished == bool(stops.size)
  assert 0 < np.sum(rollout.finished) < 8
  assert len({*np.asarray(rollout.tokens).ravel()} & {*STOPS}) > 1


FIELDS = ('tokens', 'mask', 'behaviour_logprobs', 'truncated_logprobs', 'finished')


def many_prompts(tiny, count=12):
  rng = np.random.default_rng(7)
  arrays = rng.integers(0, 40, (count, 6)), rng.integers(1, 7, count), rng.permutation(count) + 3
  return Prompts(*(jnp.asarray(array, jnp.int32) for array in arrays))


def fields(rollout):
  """What a rollout says, by name; zero where its mask is."""
  return {name: np.asarray(rollout.finished) if name == 'finished' else kept(rollout, name)
          for name in FIELDS}


def same_bits(rollout, other):
  want = fields(other)
  for name, values in fields(rollout).items():
    np.testing.assert_array_equal(values, want[name], err_msg=name)


def nearly_equal(rollout, other):
  """The very same tokens, and log-probabilities up to rounding."""
  want = fields(other)
  for name, values in fields(rollout).items():
    np.testing.assert_allclose(values, want[name], atol=2e-5 * ('logprobs' in name), err_msg=name)


@pytest.mark.parametrize('sampling', [Sampling(), TRUNCATING, GREEDY])
def test_it_draws_what_a_sampler_without_slots_draws(sampling, sampler, tiny):
  prompts = many_prompts(tiny)
  settings = dict(group_size=3, max_new_tokens=20, stop_ids=STOPS, sampling=sampling)
  want = sample_whole_batches(tiny.model, tiny.params, prompts, 4, **settings)
  assert len(set(want.mask.sum(1))) > 5 or sampling is GREEDY
  got = sampler(**settings, chunk=4, slots=10)(tiny.params, prompts, 4)
  nearly_equal(got, want)


@pytest.mark.parametrize('slots', [1, 7])
def test_slots_change_no_token(slots, sampler, tiny):
  prompts = many_prompts(tiny)
  want = sampler(group_size=3, max_new_tokens=20, chunk=4, slots=10)(tiny.params, prompts, 0)
  got = sampler(group_size=3, max_new_tokens=20, slots=slots, chunk=20)(tiny.params, prompts, 0)
  nearly_equal(got, want)       # products of another number of rows are rounded differently


def test_the_chunk_changes_no_bit_and_the_order_of_prompts_no_token(sampler, tiny):
  prompts, order = many_prompts(tiny), np.random.default_rng(1).permutation(12)
  sample = sampler(group_size=3, max_new_tokens=20, chunk=4, slots=10)
  want = sample(tiny.params, prompts, 0)
  got = sampler(group_size=3, max_new_tokens=20, chunk=1, slots=10)(tiny.params, prompts, 0)
  same_bits(got, want)
  other = sample(tiny.params, jax.tree.map(lambda x: x[order], prompts), 0)
  rows = np.arange(36).reshape(12, 3)[order].reshape(-1)
  nearly_equal(other, dataclasses.replace(
      other, **{name: np.asarray(getattr(want, name))[rows] for name in FIELDS}))


def test_rows_that_are_left_go_on_in_smaller_programs(sampler, tiny):
  prompts = many_prompts(tiny, 16)
  want = sampler(max_new_tokens=40, chunk=40, slots=8)(tiny.params, prompts, 0)
  sample = sampler(max_new_tokens=40, chunk=2)
  sizes, decode = [], sample.programs.decode_chunk

  def counted(*arguments, num_rows):
    sizes.append(num_rows)
    return decode(*arguments, num_rows=num_rows)
  sample.programs = sample.programs._replace(decode_chunk=counted)
  nearly_equal(sample(tiny.params, prompts, 0), want)
  assert sizes[0] == 32 and len(set(sizes)) > 2 and sizes == sorted(sizes, reverse=True)


def test_rows_that_finish_early_are_told_once_while_others_are_drawn(sampler, tiny):
  told = {}

  def on_rows(rows, tokens, lengths, finished):
    assert rows.tolist() == sorted({*rows.tolist()} - told.keys())
    told.update(zip(rows.tolist(), zip(tokens, lengths, finished)))
  sample = sampler(max_new_tokens=40, chunk=2)
  rollout = sample.begin(tiny.params, many_prompts(tiny, 16), 0).finish(on_rows)
  lengths = np.sum(rollout.mask, 1)
  assert 2 < len(told) < lengths.size and {*np.flatnonzero(lengths < lengths.max() - 2)} <= {*told}
  for row, (tokens, length, finished) in told.items():
    assert length == lengths[row] and finished == rollout.finished[row]
    np.testing.assert_array_equal(tokens[:length], rollout.tokens[row, :length])


def test_a_stream_gives_each_batch_the_bits_that_it_has_alone(sampler, tiny):
  whole = many_prompts(tiny, 20)
  batches = [Prompts(*(x[i:i + 4] for x in (whole.tokens, whole.lengths, whole.example_ids)))
             for i in range(0, 20, 4)]
  sample, asked = sampler(max_new_tokens=30, chunk=2, slots=5), []

  def give():
    for batch in batches:
      asked.append(len(asked))
      yield batch
  for number, rollout in enumerate(sample.stream(tiny.params, give(), 3)):
    same_bits(rollout, sampler(max_new_tokens=30, chunk=30)(tiny.params, batches[number], 3))
    if number == 0:
      assert 1 < len(asked) < 5       # later rows have begun; not all batches were asked for
  assert number == 4 and list(sample.stream(tiny.params, iter(()), 3)) == []


@pytest.mark.parametrize('count', [12, 1])
def test_on_a_mesh_each_shard_has_slots_of_its_own(count, sampler, tiny):
  """Twelve prompts are split over two shards; of one, each shard has half the completions."""
  prompts = many_prompts(tiny, count)
  want = sampler(group_size=4, max_new_tokens=20)(tiny.params, prompts, 0)
  with sharding.use(sharding.make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:4])):
    got = Sampler(tiny.model, group_size=4, max_new_tokens=20, stop_ids=STOPS, slots=10, chunk=4,
                  rollout_sharding='tensor')(
        sharding.place(tiny.params, jax.sharding.get_mesh()), sharding.place(
            prompts, jax.sharding.get_mesh(), batch=True), 0)
  nearly_equal(got, want)


def test_it_stops_early_and_when_asked(sampler, tiny, prompts):
  calls, answers = [], [False, True]

  def should_stop():
    calls.append(None)
    return answers[len(calls) - 1]

  # Every token is a stop token: completions end with their first, and one of four chunks is run.
  sample = sampler(group_size=1, stop_ids=tuple(range(40)), max_new_tokens=12, chunk=3,
                   should_stop=should_stop)
  rollout = sample(tiny.params, prompts, 0)
  assert len(calls) == 1
  np.testing.assert_array_equal(rollout.mask, np.repeat(np.eye(12)[:1], 4, 0))
  assert rollout.tokens.shape == (4, 12) and np.all(rollout.finished)
  assert not np.any(rollout.behaviour_logprobs[:, 1:])      # nor are the chunk's other tokens
  with pytest.raises(Interrupted):
    sample(tiny.params, prompts, 0)


def test_no_recompilation_from_one_iteration_to_the_next(sampler, tiny, prompts, random_params):
  sample, updated = sampler(chunk=4), random_params(tiny.model, seed=1)
  sample(tiny.params, prompts, 0)
  other = Prompts(prompts.tokens[::-1], prompts.lengths[::-1], prompts.example_ids + 4)
  messages = []
  handler = logging.Handler()
  handler.emit = lambda record: messages.append(record.getMessage())
  logging.getLogger('jax').addHandler(handler)
  try:
    with jax.log_compiles():
      sample(updated, other, 1)
      compiled = [message for message in messages if message.startswith('Compiling')]
      jax.jit(lambda x: x + 1)(1)
  finally:
    logging.getLogger('jax').removeHandler(handler)
  assert not compiled
  assert any(message.startswith('Compiling') for message in messages)      # it would be seen


@pytest.mark.parametrize('settings, message', [
    (dict(group_size=0), 'group_size must be at least 1, got 0'),
    (dict(max_new_tokens=0), 'max_new_tokens must be at least 1, got 0'),
    (dict(chunk=0), 'chunk must be at least 1, got 0'),
    (dict(slots=-1), 'slots must be at least 0, got -1'),
    (dict(stop_ids=()), 'stop_ids must have at least 1 token'),
    (dict(rollout_sharding='tensr'), "rollout_sharding='tensr' is unknown: did you mean 'tensor'")])
def test_impossible_samplers_are_refused(settings, message, sampler):
  with pytest.raises(ValueError, match=message):
    sampler(**settings)
