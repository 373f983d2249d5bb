"""Judges as rewards of a run: who is asked what, and that a run with a judge resumes as it was."""
from judge_server import reply, server  # noqa: F401 (fixtures)
import numpy as np
import pytest
import runs
from runs import base, compiled, no_curves  # noqa: F401

from r1jax import metrics
from r1jax.errors import UserError
from r1jax.models.compute import Compute
from r1jax.rewards.completion import Completion
from r1jax.rewards.judging import verdict
from r1jax.rewards.judging.judge import Judge, Reply
from r1jax.rewards.suite import RewardSuite
from r1jax.stages import rl
from r1jax.stages.judge_rewards import JudgeReward
from r1jax.stages.rl import rewards as rl_rewards

TINY = dict(question='{answer}{criterion}', criterion='ok', max_prompt_length=240,
            max_new_tokens=8, max_characters=100, rows=4)


class Stub:
  """Replies by a rule on the answer, and keeps what it was asked."""

  def __init__(self, **said):
    self.said, self.asked = said, []

  def __call__(self, questions):
    self.asked.append(questions)
    return {question: [Reply(self.said.get(dict(question.texts)['answer'], 'Verdict: no'))]
            for question in questions}, Compute(scored=5.0, scored_tokens=len(questions))


def completions_of(*texts):
  return [Completion(text, len(text), False) for text in texts]


def test_judges_are_rewards_beside_rules_and_reward_models():
  stub, other = Stub(a='Verdict: yes', c='I cannot say.'), Stub(b='Verdict: yes')
  source = rl_rewards.RewardSource(
      RewardSuite({'length': (lambda completion, example: float(completion.num_tokens), 0.5)}), {},
      {'good': JudgeReward(2.0, Judge(), stub), 'safe': JudgeReward(
          4.0, Judge(objective='safety'), other)})
  sources = rl_rewards.RewardSources(source)
  begun = sources.begin(
      [dict(question='q', answer='r'), dict(question='q', answer='r', objective='helpfulness'),
       dict(question='p', objective='safety')],
      num_general=0, owners=np.zeros(3, int), group_size=2)
  pending, taken = begun.end(completions_of('a', 'b', 'a', 'c', '', 'b'))
  got = pending.collect()
  sources.close()
  nan = np.nan
  np.testing.assert_array_equal(got.components['judge/good'], [1, 0, 1, nan, 0, 0])
  np.testing.assert_array_equal(got.components['judge/safe'], [0, 1, nan, nan, 0, 1])
  np.testing.assert_array_equal(got.total, [2.5, 4.5, 2.5, nan, 0.0, 4.5])
  assert [len(questions) for questions in stub.asked] == [4]    # equal ones once
  assert got.counters['unjudged/judge/good'] == got.counters['unread/judge/good'] == 1
  assert got.counters['asked/judge/good'] == 4 and got.counters['unjudged/reward'] == 1
  assert taken == Compute(scored=10.0, scored_tokens=7)


def test_a_judge_alone_makes_the_reward():
  source = rl_rewards.RewardSource(
      None, {}, {'good': JudgeReward(2.0, Judge(), Stub(a='Verdict: yes'))},
      prompt_opens_think=True)
  pending, _ = rl_rewards.RewardSources(source).begin(
      [dict(question='q')], num_general=0, owners=np.zeros(1, int), group_size=2).end(
          completions_of('thought</think>a', 'never closed'))
  np.testing.assert_array_equal(pending.collect().total, [2, 0])


def test_the_truth_is_compared_with_judges_too():
  rewards = rl_rewards.Rewards(np.zeros(2), {
      'skill': np.array([1.0, 0.0]), 'judge/some': np.array([0.5, np.nan])}, {})
  assert rl_rewards.truths(rewards) == {'rewards/judge/some/truth': 1.0}


def by_bytes(reply, scale, **_):
  """A verdict of any reply, so that those of an untrained judge count."""
  return sum(reply.encode()) % 3 / 2


def test_a_run_with_judges_resumes_as_if_it_had_not_stopped(
    base, server, tmp_path, monkeypatch):  # noqa: F811
  monkeypatch.setattr(verdict, 'read_verdict', by_bytes)
  server.answer = lambda number, request: (200, {}, reply(request['messages'][0]['content'][9:20]))
  judge = TINY | dict(source=base, template='miniature', votes=2, temperature=1.0)
  far = dict(url=server.url, model='m', cache=str(tmp_path / 'cache'), weight=0.5)
  config = runs.rl_config(base, judges=dict(good=judge, far=far),
                          sampling=dict(max_new_tokens=8, chunk=4))
  config['rewards'] = {}

  def run(folder):
    return lambda should_stop: rl.run(config, {}, tmp_path / folder, stage='zero',
                                      should_stop=should_stop)
  whole, _ = runs.finish(run('whole'), [])
  asked = len(server.requests)
  # Two chunks of the policy, then two for each batch of the judge: the judge is stopped, too.
  runs.finish(run('stopped'), [4])
  runs.assert_same(tmp_path / 'whole', tmp_path / 'stopped')
  assert len(server.requests) == asked    # nothing twice
  rows = metrics.read_metrics(tmp_path / 'whole')
  assert asked == sum(row['rewards/asked/judge/far'] for row in rows) > 4
  assert all(1 < row['rewards/asked/judge/good'] <= 4 for row in rows)
  assert rows[0]['compute/scored_tokens'] > 4 * 2 and whole.manifest.compute['scored'] > 0
  judged = np.array([[row['rewards'][name] for name in ('judge/good', 'judge/far')]
                     for row in metrics.read_jsonl(tmp_path / 'whole' / 'rollouts')])
  assert judged.shape == (8, 2) and np.ptp(judged, 0).min() > 0
  assert (judged[:4] @ (1, 0.5)).mean() == pytest.approx(rows[0]['reward'])


def test_a_server_that_is_not_there_ends_the_run_before_it_begins(base, server, tmp_path):  # noqa: F811
  far = dict(url=f'http://127.0.0.1:{runs.free_port()}', model='m', timeout_s=1.0)
  with pytest.raises(UserError, match="judges.far.url='http://.*' does not answer"):
    rl.run(runs.rl_config(base, judges=dict(far=far)), {}, tmp_path, stage='zero')
