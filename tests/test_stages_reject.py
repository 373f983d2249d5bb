"""Rejection sampling: which completions are kept, and why others are not."""
import collections

import pytest
import runs
from runs import base, compiled, no_curves  # noqa: F401 (fixtures)

from r1jax import metrics
from r1jax.data import miniature
from r1jax.errors import UserError
from r1jax.stages import evaluate, loading, reject, supervised
from r1jax.tokenization import load_tokenizer


def samples_of(artifact):
  return list(metrics.read_jsonl(artifact.folder / 'samples'))


def reject_config(**fields):
  return runs.merged(reject.DEFAULT, runs.merged(dict(
      data=runs.DATA, max_prompt_length=32, problems=4, prompts_per_batch=2,
      completions_per_problem=4, sampling=dict(max_new_tokens=16, chunk=16)), fields))


def test_correct_completions_of_the_model_itself_are_kept(compiled, tmp_path):
  artifact = reject.run(reject_config(problems=12), {}, tmp_path / 'all')
  kept, scores = samples_of(artifact), artifact.manifest.scores
  assert (scores['drawn'], scores['correct'], scores['kept']) == (48, len(kept), len(kept))
  examples = {f'User: {example["question"]}\nAssistant:': example['answer']
              for example in miniature.calculations('train', 64, min_steps=2, max_steps=4)}
  assert len(kept) > 1
  for sample in kept:
    assert examples[sample['prompt']] in sample['completion']
  assert [name for name in artifact.manifest.files if not (artifact.folder / name).exists()] == []
  assert artifact.manifest.files
  fewer = reject.run(reject_config(problems=12, keep=1), {}, tmp_path / 'fewer')
  assert samples_of(fewer)[0] in kept and fewer.manifest.scores['kept'] == 1
  # Who learns from them gets what was drawn, or nothing.
  for part in ('samples', 'refused'):
    assert supervised.read_drawn({'all': artifact}, 'all', part)
    file, = (tmp_path / 'all' / part).iterdir()
    runs.flip(file, 1000, 0)
    with pytest.raises(UserError, match=f"stage 'reject' in .* is damaged .{part}/part-.* has other"
                       f' content than was written.: remove .*/{part} and run the same command'):
      supervised.read_drawn({'all': artifact}, 'all', part)


def record(example_id, text, reward, truncated=False):
  return dict(prompt='How many?', completion=text, example_id=example_id, sample=0, num_tokens=9,
              truncated=truncated, rewards=dict(number=reward))


GOOD = ' <think>next 5+3=8</think> <answer>8</answer>'
RECORDS = [record(0, GOOD, 1.0), record(1, GOOD, 0.0), record(2, GOOD, None),
           record(3, GOOD, 1.0, truncated=True), record(4, ' no answer', 1.0),
           record(5, f'{GOOD} ', 1.0) | dict(language='zh', objective='safety')]


def test_selection_tells_what_it_leaves_out_and_why():
  tokenizer = load_tokenizer(loading.MINIATURES['miniature'])
  config = reject_config(pattern='summary', keep=1, filters=dict(length=dict(min_tokens=2)))
  samples = reject.read_samples(RECORDS, config, tokenizer)
  assert [sample.correct for sample in samples] == [True, False, None, True, True, True]
  assert [sample.language for sample in samples] == [*[''] * 5, 'zh']
  assert [sample.objective for sample in samples] == [*[''] * 5, 'safety']
  assert samples[0].reasoning_tokens == len(tokenizer.encode('next 5+3=8')) < 9
  curated = reject.select(samples, config)
  assert curated == reject.select(samples, config) and len(curated.kept) == 1
  assert curated.counts == {
      'drawn': 6, 'kept': 1, 'refused/correct': 2, 'refused/truncated': 1, 'refused/length': 0,
      'refused/pattern': 1, 'refused/keep': 1}
  assert [sorted(reasons) for _, reasons in curated.refused] == [
      ['correct'], ['correct'], ['truncated'], ['pattern'], ['keep']]


def test_the_kept_and_the_refused_can_both_be_read(tmp_path, monkeypatch):
  monkeypatch.setattr(evaluate, 'evaluate_model', lambda *_, **__: ({'pass@1': (1, 0, 1)}, RECORDS))
  config = reject_config(pattern='summary', filters=dict(format={}, duplicates={}))
  artifact = reject.run(config, {}, tmp_path, stage='draw')
  prompt = 'User: How many?\nAssistant:'
  assert samples_of(artifact) == [dict(
      part=0, prompt=prompt, example_id=0, question='How many?', objective='',
      completion=r' <think>next 5+3=8</think> <answer>The answer is \boxed{8}.</answer>')]
  refused = list(metrics.read_jsonl(tmp_path / 'refused'))
  assert [sample['example_id'] for sample in refused] == [1, 2, 3, 4, 5]
  assert {(sample['prompt'], sample['question']) for sample in refused} == {(prompt, 'How many?')}
  assert [sample['objective'] for sample in refused] == [*[''] * 4, 'safety']
  assert refused[0]['completion'] == GOOD and refused[0]['reasons'] == {'correct': 'wrong answer'}
  scores = artifact.manifest.scores
  assert scores['pass@1'] and (scores['drawn'], scores['correct'], scores['kept']) == (6, 3, 1)
  counts = collections.Counter(
      f'refused/{name}' for sample in refused for name in sample['reasons'])
  assert counts == {'refused/correct': 2, 'refused/truncated': 1, 'refused/format': 2,
                    'refused/duplicates': 1}
  assert counts.items() <= scores.items()
  assert {name.split('/')[0] for name in artifact.manifest.files} == {'samples', 'refused'}


def test_nothing_left_is_said_with_the_counts(base, tmp_path):
  sentence = (r"stage 'draw' kept 0 of 16 completions \(refused/correct 16, "
              r'refused/truncated \d+\), fewer than min_kept=1: read why')
  with pytest.raises(ValueError, match=sentence):
    reject.run(reject_config(model=dict(source=base)), {}, tmp_path, stage='draw')
  assert not (tmp_path / 'manifest.json').exists()
  refused = list(metrics.read_jsonl(tmp_path / 'refused'))
  assert len(refused) == 16
  assert all(sample['reasons']['correct'] == 'wrong answer' for sample in refused)
  allowed = reject_config(model=dict(source=base), min_kept=0)
  assert reject.run(allowed, {}, tmp_path, stage='draw').manifest.scores['kept'] == 0
  assert not list(metrics.read_jsonl(tmp_path / 'samples'))


def test_impossible_rejection_is_refused():
  for fields, sentence in (
      (dict(keep=0), 'keep must be at least 1, got 0'),
      (dict(keep=3, min_kept=4), 'min_kept must be at most keep=3, got 4'),
      (dict(correctness_reward='nmber'),
       "correctness_reward must be .*got 'nmber': did you mean 'number'"),
      (dict(completions_per_problem=0), 'completions_per_problem must be at least 1, got 0'),
      (dict(pattern='sumary'), "pattern must be .*got 'sumary'"),
      (dict(correctness_reward='code', pattern='summary'), "must be 'drawn' where .*'code'"),
      (dict(filters=dict(languge={})), 'did you mean .*filters.language[?]'),
      (dict(filters=dict(cap=dict(perprompt=2))), 'mean .*cap.per_prompt[?]'),
      (dict(filters=dict(cap=dict(per_prompt='2'))), 'filters.cap.per_prompt must be an int'),
      (dict(filters=dict(cap=3)), 'filters.cap must hold the fields per_prompt, got 3'),
      (dict(filters=dict(code=dict(max=3))), 'filters.code.max is not a field'),
      (dict(filters=dict(language=dict(target='xx'))),
       "stages.draw.filters.language: The language 'xx' is not known"),
      (dict(filters=dict(cap=dict(per_prompt=0))),
       'filters.cap: per_prompt must be at least 1, got 0')):
    with pytest.raises(ValueError, match=sentence):
      reject.SETTINGS.check(reject_config(**fields), 'config.stages.draw')
