"""Rules and reward models together: who judges what, and what a completion's total is."""
from mixture_cases import OBJECTIVES, by_length, stand_in
import numpy as np
import pytest
import runs

from r1jax.models import compute
from r1jax.rewards.completion import Completion
from r1jax.rewards.extract import final_summary
from r1jax.rewards.suite import Rewards, RewardSuite
from r1jax.stages import reward_model
from r1jax.stages.rl import rewards as rl_rewards


def completions_of(count):
  return [Completion(f'text {"b" * number}', number, False) for number in range(count)]


def models_of(**weights):
  return {name: rl_rewards.ScoringModel(weight, name, stand_in(name))
          for name, weight in weights.items()}


def test_a_reward_model_judges_its_own_objective_and_what_has_none():
  completions = completions_of(8)
  examples = [dict(question='q', objective='helpfulness'), dict(question='q', objective='safety'),
              dict(question='q', objective=None), dict(question='q')]
  got, took = rl_rewards.score(models_of(helpfulness=2.0, safety=3.0), completions, examples)
  assert took == compute.Compute(scored=120.0, scored_tokens=12)    # six by each
  total = np.zeros(8)
  for name, weight in dict(helpfulness=2.0, safety=3.0).items():
    component = got.components[f'reward_model/{name}']
    for n, completion in enumerate(completions):
      example = examples[n // 2]
      if example.get('objective') in (None, name):
        score = stand_in(name)(['q'], [[completion.text]]).rewards[0, 0]
        assert component[n] == pytest.approx(1 / (1 + np.exp(-score)), rel=1e-6)
        total[n] += weight * component[n]
      else:
        assert np.isnan(component[n])
    assert got.counters[f'unjudged/reward_model/{name}'] == 2
  np.testing.assert_allclose(got.total, total, rtol=1e-6)


def test_scores_of_any_size_give_rewards_from_0_to_1():
  for score, want in ((-1e4, 0.0), (0.0, 0.5), (1e4, 1.0)):
    scored = reward_model.Scored(np.full((1, 2), score, np.float32), compute.Compute())
    model = rl_rewards.ScoringModel(1.0, 'safety', lambda *_, scored=scored: scored)
    got, _ = rl_rewards.score({'x': model}, completions_of(2), [dict(question='q')])
    np.testing.assert_array_equal(got.total, [want] * 2)


def test_each_part_has_its_own_rewards_united_by_name():
  def suite(**functions):
    return RewardSuite(functions)

  sources = rl_rewards.RewardSources(
      rl_rewards.RewardSource(suite(bytes=(runs.by_bytes, 1.0)), {}),
      rl_rewards.RewardSource(suite(bytes=(runs.by_bytes, 0.0), length=(by_length, 0.5)),
                              models_of(safety=1.0)))
  examples = [dict(question='q', objective=objective) for objective in (None, *OBJECTIVES)]
  completions = completions_of(6)
  pending, judging = sources.begin(
      examples, num_general=2, owners=np.zeros(len(examples), int), group_size=2).end(completions)
  got = pending.collect()
  sources.close()
  assert judging.scored_tokens == 2
  bytes_, length, safety = (
      got.components[name] for name in ('bytes', 'length', 'reward_model/safety'))
  np.testing.assert_array_equal(bytes_, [runs.by_bytes(each, {}) for each in completions])
  np.testing.assert_array_equal(np.isnan(length), [True] * 2 + [False] * 4)
  np.testing.assert_array_equal(np.isnan(safety), [True] * 4 + [False] * 2)
  want = np.where(np.arange(6) < 2, bytes_, 0.5 * np.nan_to_num(length) + np.nan_to_num(safety))
  np.testing.assert_allclose(got.total, want)
  assert got.counters['unjudged/reward_model/safety'] == 2 and got.counters['timeouts'] == 0
  assert got.counters['unjudged/reward'] == 0
  parts = rl_rewards.totals_by_part(got, 1, 2, group_size=2)
  assert parts == {'reward/reasoning': pytest.approx(want[:2].mean()),
                   'reward/general': pytest.approx(want[2:].mean())}
  assert rl_rewards.totals_by_part(Rewards.concatenate([got, got]), 2, 2, group_size=2) == parts


def test_the_truth_is_that_of_what_a_reward_model_judged():
  nan = np.nan
  rewards = Rewards(np.zeros(5), {
      'skill': np.array([1.0, 0.0, 1.0, nan, 1.0]),
      'reward_model/some': np.array([0.3, 0.4, nan, 0.5, nan]),
      'reward_model/none': np.full(5, nan), 'reward_model/all': np.full(5, 0.5)}, {})
  assert rl_rewards.truths(rewards) == {
      'rewards/reward_model/some/truth': 0.5, 'rewards/reward_model/all/truth': 0.75}
  del rewards.components['skill']
  assert rl_rewards.truths(rewards) == {}


@pytest.mark.parametrize('before', (False, True))
@pytest.mark.parametrize('after', (False, True))
def test_a_completion_means_the_same_after_another_templates_prompt(before, after):
  """`<think>` stands once, in the prompt or in the text, whatever the two templates do."""
  for text in (' 3+4=7</think> <answer>7</answer>', ' 3+4=7</think> 7', ' 3+4=7, never closed'):
    written = text if before else f' <think>{text}'
    got = rl_rewards.reframe(written, prompt_opens_think=before, new_prompt_opens_think=after)
    assert ('<think>' * after + got).count('<think>') == 1
    assert got.endswith(text)
    assert final_summary(got, prompt_opens_think=after) == final_summary(
        written, prompt_opens_think=before)
  if not before:    # without a chain of thought the whole is the answer
    got = rl_rewards.reframe(' Seven.', prompt_opens_think=False, new_prompt_opens_think=after)
    assert final_summary(got, prompt_opens_think=after) == 'Seven.'


def test_what_no_source_judged_has_no_total_and_a_rule_does_not_hide_what_a_model_left_out():
  def rule(completion, example):
    return None if completion.num_tokens == 1 else 1.0

  source = rl_rewards.RewardSource(RewardSuite({'rule': (rule, 1.0)}), models_of(safety=1.0))
  sources = rl_rewards.RewardSources(source)
  examples = [dict(question='q', objective=objective) for objective in OBJECTIVES]
  pending, _ = sources.begin(
      examples, num_general=0, owners=np.zeros(2, int), group_size=2).end(completions_of(4))
  got = pending.collect()
  sources.close()
  assert np.isnan(got.total).tolist() == [False, True, False, False]
  assert got.total[0] == 1 and got.counters['unjudged/reward'] == 1
  penalised = rl_rewards.penalise_overlong(got, completions_of(4), max_length=4, buffer=4)
  assert np.isnan(penalised.total[1]) and penalised.total[0] == 1
  parts = rl_rewards.totals_by_part(got, 1, 1, group_size=2)
  assert parts['reward/reasoning'] == 1 and parts['reward/general'] > 1
  nothing = Rewards(np.full(4, np.nan), {}, {})
  assert rl_rewards.totals_by_part(nothing, 1, 1, group_size=2) == {}
