import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.logprobs import completion_logprobs
from r1jax.records import Prompts
from r1jax.sampler import Sampling, draw, make_sampler, truncate

PROMPTS = Prompts(
    np.random.default_rng(0).integers(0, 40, (3, 6)).astype(np.int32),
    np.asarray([6, 3, 1], np.int32), np.asarray([5, 9, 7], np.int32))


def sampler_of(tiny, **settings):
  return make_sampler(tiny.model, **(dict(
      group_size=2, max_new_tokens=7, stop_ids=(3, 8), chunk=4) | settings))


@pytest.mark.parametrize('temperature', [1.0, 0.6, 0.0])
def test_pitfall_11_recorded_logprobs_equal_teacher_forced_ones(tiny, temperature):
  rollout = sampler_of(tiny, sampling=Sampling(temperature))(tiny.params, PROMPTS, 0)
  forced, _ = completion_logprobs(
      tiny.model, tiny.params, PROMPTS.tokens, PROMPTS.lengths, rollout.tokens, rollout.mask,
      temperature=temperature)
  gap = jnp.abs(forced - rollout.behaviour_logprobs) * rollout.mask
  assert jnp.sum(rollout.mask) > 6 and jnp.max(gap) < 1e-4


def test_pitfall_12_fresh_randomness_that_resuming_repeats(tiny):
  sample = sampler_of(tiny, max_new_tokens=4)
  first, again, other = (sample(tiny.params, PROMPTS, i).tokens for i in (0, 0, 1))
  assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_pitfall_13_a_row_depends_on_its_own_key_and_prompt_alone(tiny):
  sample = sampler_of(tiny)
  whole = sample(tiny.params, PROMPTS, 0)
  wider = np.pad(PROMPTS.tokens, ((0, 0), (0, 5)), constant_values=17)[::-1]
  turned = sample(tiny.params, Prompts(wider, PROMPTS.lengths[::-1], PROMPTS.example_ids[::-1]), 0)
  by_group = lambda rollout: np.asarray(rollout.tokens * rollout.mask).reshape(3, 2, -1)
  assert np.array_equal(by_group(whole), by_group(turned)[::-1])


def test_pitfall_03_the_stop_token_is_inside_the_mask_and_nothing_after_it(tiny):
  rollout = sampler_of(tiny, group_size=8)(tiny.params, PROMPTS, 0)
  for tokens, mask, finished in zip(*map(np.asarray, (
      rollout.tokens, rollout.mask, rollout.finished))):
    kept = tokens[mask == 1]
    stops = np.isin(kept, (3, 8))
    assert not stops[:-1].any() and bool(stops[-1]) == finished
    assert finished or len(kept) == 7
  assert np.asarray(rollout.finished).any()


def test_the_chunk_changes_no_token(tiny):
  one, two = (sampler_of(tiny, chunk=chunk)(tiny.params, PROMPTS, 0) for chunk in (7, 2))
  assert np.array_equal(one.tokens * one.mask, two.tokens * two.mask)
  assert np.array_equal(one.mask, two.mask)


@pytest.mark.parametrize('settings', [
    {}, dict(top_k=5), dict(top_p=0.7), dict(min_p=0.2), dict(temperature=0.5, top_k=9, top_p=0.8)])
def test_draws_follow_the_truncated_softmax(settings):
  # Total variation of 20,000 draws over 150 tokens: its mean is below 0.04 and a deviation above
  # 0.06 has a probability below 1e-6 (bounded differences).
  sampling, count = Sampling(**settings), 20_000
  logits = 2 * jax.random.normal(jax.random.key(1), (150,))
  keys = jax.random.split(jax.random.key(2), count)
  tokens, full, truncated = jax.jit(draw, static_argnames='sampling')(
      keys, jnp.broadcast_to(logits, (count, 150)), sampling)
  scaled = logits / sampling.temperature
  wanted = np.asarray(jax.nn.softmax(truncate(scaled, sampling)))
  seen = np.bincount(tokens, minlength=150) / count
  assert not seen[wanted == 0].any()
  assert np.abs(seen - wanted).sum() / 2 < 0.06
  np.testing.assert_allclose(truncated, np.log(wanted)[tokens], atol=1e-4)
  np.testing.assert_allclose(full, jax.nn.log_softmax(scaled)[tokens], atol=1e-4)


def test_truncation_keeps_what_each_filter_should():
  logits = jnp.log(jnp.asarray([0.5, 0.25, 0.15, 0.07, 0.03]))
  kept = lambda **settings: int(jnp.isfinite(truncate(logits, Sampling(**settings))).sum())
  assert [kept(top_k=2), kept(top_p=0.74), kept(top_p=0.76), kept(top_p=1e-6), kept(min_p=0.2),
          kept()] == [2, 2, 3, 1, 3, 5]


@pytest.mark.parametrize('settings', [
    dict(temperature=-1), dict(top_p=0), dict(top_p=1.5), dict(min_p=2), dict(top_k=-1)])
def test_settings_out_of_range_are_refused(settings):
  with pytest.raises(ValueError, match=next(iter(settings))):
    Sampling(**settings)


def test_no_recompilation_from_one_iteration_to_the_next(tiny):
  sample = sampler_of(tiny)
  sample(tiny.params, PROMPTS, 0)
  with jax.log_compiles():
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logging.getLogger('jax').addHandler(handler)
    try:
      sample(tiny.params, dataclasses.replace(PROMPTS, example_ids=PROMPTS.example_ids + 1), 1)
    finally:
      logging.getLogger('jax').removeHandler(handler)
  assert not [message for message in records if message.startswith('Compiling')]
