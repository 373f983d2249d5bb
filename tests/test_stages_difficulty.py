"""Stages read the problems whose pass rates are in a range, and say how many those are."""
import io
import json

import numpy as np
import pytest
from rate_cases import EXAMPLES, RATES, leave_rates
import rich.console
import runs
from runs import base, compiled, no_curves, one_device  # noqa: F401 (fixtures)

from r1jax import checkpoint, metrics, pipeline
from r1jax.errors import UserError
from r1jax.stages import contents, difficulty, pass_rate, reject, rl, sft
from r1jax.stages.artifact import identity


@pytest.fixture
def rates(tmp_path):
  """Of the first forty examples: 0, 1, 2, 3 and 4 of four, and again."""
  return leave_rates(tmp_path / 'rates', RATES)


def config_of(source, **fields):
  data = runs.DATA | dict(filter=dict(source=source, **fields))
  return dict(inputs=('rates',), data=data)


def test_problems_of_a_range_are_chosen_and_counted(rates):
  for source, inputs in (('rates', {'rates': rates}), (str(rates.folder), {})):
    chosen = difficulty.choose(config_of(source, low=0.25, high=0.75), 'train', inputs)
    assert chosen.problems.indices.tolist() == [n for n in range(40) if 1 <= n % 5 <= 3]
    assert chosen.scores() == {'problems': 64, 'problems/kept': 24, 'problems/below': 8,
                               'problems/above': 8, 'problems/unknown': 24}
  chosen = difficulty.choose(config_of('rates', low=1.0, unknown='keep'), 'train', inputs | {
      'rates': rates})
  assert chosen.problems.indices.tolist() == [*range(4, 40, 5), *range(40, 64)]
  told = io.StringIO()
  chosen.announce('zero', rich.console.Console(file=told, width=20))
  assert told.getvalue() == ("stage 'zero': data.filter keeps 32 of 64 problems (32 below, 0 above,"
                             ' 24 not measured)\n')


def test_without_a_filter_or_before_its_source_is_measured_all_problems_are_read(rates):
  for config, inputs in ((dict(inputs=(), data=runs.DATA), {}), (config_of('rates'), None)):
    chosen = difficulty.choose(config, 'train', inputs)
    assert chosen.problems.indices is None and chosen.scores() == {}
    chosen.announce('zero', None)


def test_a_dataset_in_another_order_and_longer_finds_its_rates(rates, tmp_path):
  order = np.random.default_rng(0).permutation(64)
  (tmp_path / 'train.jsonl').write_text(''.join(json.dumps(dict(
      prompt=EXAMPLES[n]['question'], answer='changed' if n == 2 else EXAMPLES[n]['answer']))
      + '\n' for n in order))
  data = dict(name='jsonl', folder=str(tmp_path), filter=dict(source='rates', low=0.5, high=0.5))
  chosen = difficulty.choose(dict(inputs=('rates',), data=data), 'train', {'rates': rates})
  assert sorted(order[chosen.problems.indices]) == [n for n in range(3, 40) if n % 5 == 2]


def test_rates_that_do_not_fit_are_refused_with_numbers(rates, tmp_path):
  inputs = {'rates': rates, 'draw': leave_rates(tmp_path, [4] * 40)}
  for config, sentence in (
      (config_of('rates', low=0.3, high=0.4), r'data.filter keeps none of the 64 problems \(16 '
       r"below, 24 above, 24 not measured\) with low=0.3, high=0.4, unknown='drop': widen"),
      (dict(inputs=(), data=runs.DATA | dict(seed=9, filter=dict(source='rates', unknown='keep'))),
       "source='rates' has pass rates of 40 problems, and none of them is among the 64 of this da"),
      (config_of('/nowhere'), "data.filter.source='/nowhere' is neither an input stage nor the ")):
    with pytest.raises((UserError, FileNotFoundError), match=sentence):
      difficulty.choose(config, 'train', inputs)
  leave_rates(tmp_path / 'rates', [1] * 40, judged=0)
  with pytest.raises(UserError, match='has pass rates of 0 problems'):
    difficulty.choose(config_of(str(tmp_path / 'rates')), 'train', {})
  runs.flip(tmp_path / difficulty.ROWS, 100, 0)
  with pytest.raises(UserError, match='is damaged'):
    difficulty.choose(config_of('draw'), 'train', inputs)
  manifest = checkpoint.Manifest('reject', 'draw', 'x')
  checkpoint.write_manifest(tmp_path, manifest)
  with pytest.raises(UserError, match="is a stage of kind 'reject': name one of kind 'pass_rate'"):
    difficulty.choose(config_of(str(tmp_path)), 'train', {})


@pytest.mark.parametrize('given, sentence', [
    (dict(source='rates', low=0.5, high=0.4), 'filter.low must be at most high=0.4, got 0.5'),
    (dict(low=0.5), 'filter.source must not be empty where other fields are set'),
    (dict(source='rates', low=-1.0), 'filter.low must be at least 0 and at most 1, got -1.0'),
    (dict(source='rates', unknown='kepe'), "filter.unknown must be .*: did you mean 'keep'"),
    (dict(surce='rates'), 'filter.surce is not a field: did you mean .*filter.source'),
    (3, 'filter must hold the fields source, low, high, unknown, got 3')])
def test_an_impossible_filter_is_refused_in_every_stage_that_has_one(given, sentence):
  for stage in (rl, reject, pass_rate, sft):
    config = stage.DEFAULT | dict(data=runs.DATA | dict(filter=given))
    config |= {'rewards': {'number': 1.0}} if stage is rl else {}
    with pytest.raises(UserError, match=sentence):
      stage.SETTINGS.check(config, 'config.stages.one')


def test_a_filter_and_its_rates_are_part_of_the_identity(rates, base):
  def known(data, inputs=('rates',), rates_identity='a'):
    config = runs.rl_config(base, inputs=inputs) | dict(data=runs.DATA | data)
    return identity(rl.SETTINGS, config, dict.fromkeys(inputs, rates_identity))
  filtered = dict(filter=dict(source='rates', low=0.5))
  whole = [known({}), known(dict(filter={})), known(dict(filter=difficulty.FILTER.filled({})))]
  assert len(set(whole)) == 1
  assert known(filtered) == known(dict(filter=dict(source='rates', low=0.5, unknown='drop')))
  assert len({whole[0], known(filtered), known(filtered, rates_identity='b'),
              known(dict(filter=dict(source='rates', low=0.25)))}) == 4
  of_folder = runs.rl_config(base) | dict(data=runs.DATA | dict(
      filter=dict(source=str(rates.folder))))
  assert str(rates.folder) in contents.contents(rl.SETTINGS, of_folder, ())


def test_a_chain_is_told_of_a_wrong_source_before_it_runs(base, one_device, tmp_path):
  filtered = dict(data=runs.DATA | dict(filter=dict(source='draw')))
  stages = dict(draw=runs.merged(reject.DEFAULT, dict(data=runs.DATA, problems=4)),
                zero=runs.rl_config(base, inputs=('draw',)) | filtered)
  with pytest.raises(UserError, match=(
      "zero.data.filter.source='draw' is a stage of kind 'reject': name one of kind 'pass_rate'")):
    pipeline.dry_run(dict(stages=stages, mesh=dict(fsdp=1)), tmp_path)
  stages['zero']['inputs'] = ()
  with pytest.raises(UserError, match="source='draw' is a stage that config.stages.zero.inputs la"):
    pipeline.check(dict(stages=stages))


def test_sft_learns_from_the_problems_that_are_kept(rates, base):
  config = runs.sft_config(base, inputs=('rates',), sample_stages=())
  whole, kept = (sft._chosen(config | dict(data=runs.DATA | data), {'rates': rates}) for data in (
      {}, dict(filter=dict(source='rates', low=0.75))))
  tokenizer = sft.loading.find_tokenizer(base, {})
  template = sft.prompt_format(config)
  samples = sft.data_samples(whole.problems, 'miniature', template, tokenizer)
  assert sft.data_samples(kept.problems, 'miniature', template, tokenizer) == [
      samples[n] for n in range(40) if n % 5 >= 3]


def test_rejection_sampling_draws_from_the_problems_that_are_kept(rates, base, tmp_path):
  config = runs.merged(reject.DEFAULT, dict(
      inputs=('rates',), model=dict(source=base), max_prompt_length=32, problems=8, min_kept=0,
      prompts_per_batch=8, completions_per_problem=1, sampling=dict(max_new_tokens=8, chunk=8)))
  config['data'] = runs.DATA | dict(filter=dict(source='rates', high=0.0))
  artifact = reject.run(config, {'rates': rates}, tmp_path / 'draw')
  drawn = list(metrics.read_jsonl(tmp_path / 'draw' / 'refused'))
  assert sorted(row['example_id'] for row in drawn) == list(range(0, 40, 5))
  assert artifact.manifest.scores['problems/kept'] == 8
  with pytest.raises(UserError, match='has only 8 prompts .* after data.filter: lower prob'):
    reject.run(config | dict(problems=9), {'rates': rates}, tmp_path / 'more')
