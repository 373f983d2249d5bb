"""Pass rates are measured once, a batch at a time, and a stage that was stopped goes on."""

import shutil

import jax
import numpy as np
from plan_cases import traced
import pytest
import runs
from runs import base, compiled, no_curves  # noqa: F401 (fixtures)

from r1jax import evaluate as evaluation
from r1jax import metrics
from r1jax.checkpoint import Checkpointer
from r1jax.data import miniature, pass_rates
from r1jax.errors import UserError
from r1jax.runtime import sharding
from r1jax.runtime.storage import Path
from r1jax.stages import loading, pass_rate
from r1jax.stages.artifact import open_artifact
from r1jax.stages.loop import TrainingLoop
from r1jax.stages.stage import StopRequested


def rate_config(**fields):
  """The miniature's rates of ten problems, four at a time."""
  return runs.merged(pass_rate.DEFAULT, runs.merged(dict(
      data=runs.DATA | dict(size=10), max_prompt_length=32, prompts_per_batch=4,
      completions_per_problem=4, sampling=dict(max_new_tokens=16, chunk=8), reward_workers=1),
      fields))


def rows_of(workdir):
  return list(metrics.read_part(Path(workdir) / pass_rate.ROWS))


@pytest.fixture(scope='module')
def measured(compiled, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('measured')
  pass_rate.run(rate_config(), {}, workdir)
  return workdir


def test_every_problem_has_a_row_and_the_manifest_sums_them_up(measured):
  rows, artifact = rows_of(measured), open_artifact(measured)
  examples = miniature.calculations('train', 10, min_steps=2, max_steps=4)
  assert [row['example_id'] for row in rows] == list(range(10))
  assert [row['problem'] for row in rows] == [pass_rates.problem_key(e) for e in examples]
  assert all(row['drawn'] == row['judged'] == 4 for row in rows)
  rates, scores = [row['passed'] / 4 for row in rows], artifact.manifest.scores
  assert 0 < np.mean(rates) < 1 and scores['pass_rate'][0] == pytest.approx(np.mean(rates))
  assert (scores['problems'], scores['skipped'], scores['unjudged']) == (10, 0, 0)
  assert scores['never'] == rates.count(0) / 10 and scores['always'] == rates.count(1) / 10
  assert sum(scores['histogram'].values()) == 10 and scores['histogram']['0'] == rates.count(0)
  assert artifact.manifest.compute['sampled_tokens'] > 0
  artifact.check(pass_rate.ROWS)
  assert not (measured / 'pass_rates').exists()


def test_a_stage_that_is_stopped_goes_on_where_it_was(measured, tmp_path, monkeypatch):
  """What was being judged is saved before the stage ends, and not drawn again."""
  drawn, draw = [], evaluation.draw

  def noting(sample, params, batches, *arguments, **settings):
    def noted():
      for prompts in batches:
        drawn.append(prompts.example_ids.tolist())
        yield prompts
    return draw(sample, params, noted(), *arguments, **settings)
  monkeypatch.setattr(evaluation, 'draw', noting)
  save, saved = TrainingLoop.save, []

  def noting_save(*arguments, **settings):
    saved.append(len(drawn))
    return save(*arguments, **settings)
  monkeypatch.setattr(TrainingLoop, 'save', noting_save)

  def run(should_stop):
    return pass_rate.run(rate_config(), {}, tmp_path, should_stop=should_stop)
  for should_stop, step in ((lambda: True, 0), (lambda: bool(saved), 8)):
    with pytest.raises(StopRequested, match=f'its state after step {step} is saved'):
      run(should_stop)
  begun = len(drawn)
  artifact = run(lambda: False)
  assert drawn.count([0, 1, 2, 3]) == 2 and drawn[begun:] == [[8, 9, 0, 1]]
  runs.assert_same(tmp_path, measured)
  assert artifact.identity == open_artifact(measured).identity


def test_a_stage_that_is_killed_between_its_rows_and_its_checkpoint_goes_on(
    measured, tmp_path, monkeypatch):
  """In batches of another size, on which the rates do not depend."""
  save, saved = TrainingLoop.save, []

  def failing(*arguments):
    saved.append(None)
    if len(saved) == 2:
      raise KeyboardInterrupt
    save(*arguments)
  with monkeypatch.context() as patch:
    patch.setattr(TrainingLoop, 'save', failing)
    with pytest.raises(KeyboardInterrupt):
      pass_rate.run(rate_config(), {}, tmp_path)
  assert len([*metrics.read_jsonl(Path(tmp_path) / 'pass_rates')]) == 8
  assert Checkpointer(tmp_path / 'checkpoints').latest_step() == 4
  pass_rate.run(rate_config(prompts_per_batch=3), {}, tmp_path)
  assert (tmp_path / pass_rate.ROWS).read_bytes() == (measured / pass_rate.ROWS).read_bytes()


def test_rows_that_are_lost_are_measured_again(measured, tmp_path):
  shutil.copytree(measured, tmp_path, dirs_exist_ok=True)
  artifact = open_artifact(tmp_path)
  runs.flip(tmp_path / pass_rate.ROWS, 100, 0)
  with pytest.raises(UserError, match='is damaged .*remove .*pass_rates.jsonl and run the same'):
    artifact.check(pass_rate.ROWS)
  (tmp_path / pass_rate.ROWS).unlink()
  pass_rate.run(rate_config(), {}, tmp_path)
  assert (tmp_path / pass_rate.ROWS).read_bytes() == (measured / pass_rate.ROWS).read_bytes()


@pytest.mark.slow
def test_long_prompts_are_skipped_and_a_number_of_problems_can_be_set(measured, tmp_path):
  lengths = dict(max_prompt_length=20)    # the first and the last are longer
  few = pass_rate.run(rate_config(problems=3, **lengths), {}, tmp_path / 'few')
  all_ = pass_rate.run(rate_config(**lengths), {}, tmp_path / 'all')
  assert few.manifest.scores['problems'] == 3
  found, scores = rows_of(tmp_path / 'all'), all_.manifest.scores
  assert [row['example_id'] for row in found] == [1, 2, 3, 4, 5, 6, 8]
  assert rows_of(tmp_path / 'few') == found[:3]
  assert scores['problems'] == len(found) and scores['skipped'] == 10 - len(found)
  known = {row['example_id']: row for row in rows_of(measured)}
  assert found == [known[row['example_id']] for row in found]
  with pytest.raises(UserError, match='none of the 10 prompts of the train split of .miniature. '
                                      'has at most max_prompt_length=2 tokens: raise it'):
    pass_rate.check_data(rate_config(max_prompt_length=2), loading.find_tokenizer('miniature', {}))


@pytest.mark.parametrize('problems, iterations', [(0, 0), (10, 3), (3, 1)])
def test_the_plan_is_that_of_a_rollout(problems, iterations):
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  programs, work = traced(rate_config(problems=problems), mesh, lambda model: runs.SHAPE)
  assert [program.name for program in programs][:3] == ['reshard', 'slots', 'prefill']
  prompts = min(problems or 4, 4)
  assert programs[1].arguments[1].tokens.shape == (prompts, 32)
  assert (work.iterations, work.tokens) == (iterations, prompts * 4 * 16)
