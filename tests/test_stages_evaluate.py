import json
import types

import jax
import numpy as np
import pytest
import runs
from runs import base, compiled  # noqa: F401 (fixtures)

from r1jax import checkpoint
from r1jax import evaluate as evaluation
from r1jax.prompting.templates import encode_prompt
from r1jax.records import Prompts
from r1jax.runtime import sharding
from r1jax.runtime.storage import Path
from r1jax.stages import datasets, evaluate
from r1jax.stages.artifact import open_artifact
from r1jax.tokenization import load_tokenizer


def stage_config(source, **fields):
  return runs.evaluation_config(model=dict(source=source), **fields)


def test_a_checkpoint_is_evaluated_by_itself(compiled, tmp_path):
  config = stage_config('miniature', problems=6, prompts_per_batch=2, completions_per_problem=4,
                        correctness_reward='number',
                        sampling=dict(max_new_tokens=16, chunk=16))
  artifact = evaluate.run(config, {}, tmp_path)
  scores = artifact.manifest.scores['evaluate']
  assert artifact.manifest.kind == 'evaluate'
  lines = (tmp_path / 'evaluations' / 'evaluate.jsonl').read_text().splitlines()
  records = [json.loads(line) for line in lines]
  assert len(records) == 24
  # The estimates, from the samples that are kept: correct ones of each problem.
  correct = np.array([record['rewards']['number'] for record in records]).reshape(6, 4)
  assert 0 < correct.sum() < 24
  assert scores['pass@1'][0] == pytest.approx(correct.mean())
  assert scores['pass@4'][0] == pytest.approx(correct.any(1).mean())
  assert scores['mean_length'][0] == pytest.approx(
      np.mean([record['num_tokens'] for record in records]))
  for mean, low, high in scores.values():
    assert low <= mean <= high
  questions = [record['prompt'] for record in records]
  assert len(set(questions)) == 6 and questions[:4] == [questions[0]] * 4
  held_out = datasets.load_examples(runs.DATA, 'test')
  assert questions[::4] == [example['question'] for example in held_out[:6]]


def test_what_is_done_is_not_done_again(base, tmp_path, monkeypatch):
  first, changed = stage_config(base), stage_config(base, seed=5)
  evaluate.run(first, {}, tmp_path)
  done = []
  monkeypatch.setattr(evaluate, 'evaluate_model', lambda config, *_, **__: done.append(config) or (
      {'pass@1': (0.5, 0.0, 1.0)}, []))
  evaluate.run(first, {}, tmp_path)
  assert not done
  sentence = 'holds another run .* config.seed changed: .*another workdir'
  with pytest.raises(ValueError, match=sentence):
    evaluate.run(changed, {}, tmp_path)
  assert not done


def test_an_input_stage_and_a_bucket_can_be_evaluated(base, tmp_path):
  bucket = Path(f'memory://{tmp_path.name}')
  Path(base).copy_to(bucket / 'model')
  checkpoint.write_manifest(bucket, checkpoint.Manifest('rl', 'zero', 'of zero'))
  artifact = evaluate.run(stage_config('zero', inputs=('zero',)),
                          {'zero': open_artifact(bucket)}, tmp_path / 'of the bucket')
  assert artifact.manifest.parents == {'zero': 'of zero'}
  evaluate.run(stage_config(base), {}, tmp_path / 'of the folder')
  of_bucket, of_folder = (tmp_path / name / 'evaluations' / 'evaluate.jsonl'
                          for name in ('of the bucket', 'of the folder'))
  assert of_bucket.read_text() == of_folder.read_text()


def test_impossible_evaluations_are_refused(base, tmp_path):
  for fields, sentence in (
      (dict(problems=0), 'problems must be at least 1, got 0'),
      (dict(correctness_reward='exact'), "got 'exact': did you mean 'exact_match'"),
      (dict(template='minature'), "template must be .*got 'minature': did you mean 'miniature'"),
      (dict(sampling=dict(chunk=0)), 'chunk must be at least 1, got 0'),
      (dict(sampling=dict(top_p=0.0)), 'top_p must be above 0 and at most 1, got 0.0')):
    with pytest.raises(ValueError, match=sentence):
      evaluate.run(stage_config(base, **fields), {}, tmp_path)
  for source in ('trained', 'zero', ''):
    with pytest.raises(FileNotFoundError, match=f"There is no model '{source}': name an input"):
      evaluate.run(stage_config(source), {}, tmp_path)


def test_a_batch_larger_than_the_rest_is_cut(base, tmp_path):
  """Three problems, two at a time: the fourth is drawn and left out."""
  artifact = evaluate.run(stage_config(base, problems=3), {}, tmp_path)
  lines = (tmp_path / 'evaluations' / 'evaluate.jsonl').read_text().splitlines()
  assert len(lines) == 6
  lengths = [json.loads(line)['num_tokens'] for line in lines]
  want = evaluation.mean_interval(np.reshape(lengths, (3, 2)).mean(1))
  assert artifact.manifest.scores['evaluate']['mean_length'] == pytest.approx(want)


def test_a_batch_never_has_more_prompts_than_there_are_problems(base, tmp_path):
  """The data have three problems, eight are drawn at a time: three are drawn."""
  config = stage_config(
      base, problems=3, prompts_per_batch=8, data=dict(size=3), max_prompt_length=64)
  evaluate.run(config, {}, tmp_path)
  lines = (tmp_path / 'evaluations' / 'evaluate.jsonl').read_text().splitlines()
  assert len({json.loads(line)['prompt'] for line in lines}) == 3


def test_a_mesh_splits_the_batches_and_changes_no_completion(base, tmp_path, monkeypatch):
  """14 problems, 7 at a time by the config: 4 where four devices share them."""
  config = stage_config(base, problems=14, prompts_per_batch=7)
  evaluate.run(config, {}, tmp_path / 'one')
  split, place = [], sharding.place

  def seen(tree, mesh, *, batch=False):
    placed = place(tree, mesh, batch=batch)
    if isinstance(tree, Prompts):
      split.append((tree.lengths.size, placed.lengths.sharding.shard_shape((tree.lengths.size,))))
    return placed
  monkeypatch.setattr(sharding, 'place', seen)
  evaluate.run(config, {}, tmp_path / 'four', mesh=sharding.make_mesh(4, 1, jax.devices()[:4]))
  assert split == [(4, (1,))] * 4
  one, four = ((tmp_path / name / 'evaluations' / 'evaluate.jsonl').read_text()
               for name in ('one', 'four'))
  assert one == four and one


def test_as_many_prompts_at_a_time_as_the_mesh_splits():
  mesh = sharding.make_mesh(fsdp=2, expert=2, tensor=2)

  def at_a_time(prompts, problems):
    return datasets.prompts_at_a_time(dict(prompts_per_batch=prompts, problems=problems), mesh)
  assert [at_a_time(*sizes) for sizes in ((100, 1319), (25, 1319), (100, 22), (3, 22))] == [
      100, 24, 20, 3]


def test_no_problem_is_counted_twice(base, tmp_path, monkeypatch):
  """Its second completions would be the first ones again: too few problems are refused."""
  def refuse(*_, **__):
    raise AssertionError('something is about to be computed')
  monkeypatch.setattr(evaluate, 'Sampler', refuse)
  tokenizer = load_tokenizer(base)
  lengths = [len(encode_prompt('miniature', example['question'], tokenizer))
             for example in datasets.load_examples(runs.DATA, 'test')]
  limit = sorted(lengths)[len(lengths) // 2]
  fitting = sum(length <= limit for length in lengths)
  assert 0 < fitting < 64
  for fields, found in ((dict(problems=65, max_prompt_length=64), 64),
                        (dict(problems=fitting + 1, max_prompt_length=limit), fitting)):
    config = stage_config(base, **fields)
    with pytest.raises(ValueError, match=f'problems={fields["problems"]}, but the test split of '
                       f"'miniature' has only {found} prompts .*: lower problems to {found}, or"):
      evaluate.run(config, {}, tmp_path)
    with pytest.raises(ValueError, match=f'has only {found} prompts'):   # and before training
      evaluate.check_sources(types.SimpleNamespace(
          kind='rl', config={'evaluations': {'x': config}}, inputs={}), None)


def test_one_model_is_evaluated_in_several_ways(base, tmp_path):
  general = dict(name='miniature_general', size=20, seed=0, tasks=('json', 'harmful', 'turns'))
  evaluations = {
      'sums': runs.evaluation_config(),
      'skills': runs.evaluation_config(problems=4) | dict(data=general, correctness_reward='skill')}
  config = runs.merged(evaluate.SEVERAL, dict(model=dict(source=base), evaluations=evaluations))
  artifact = evaluate.run(config, {}, tmp_path, stage='base')
  assert artifact.manifest.scores.keys() == {'sums', 'skills'}
  assert {'skills', 'pass@1/json', 'pass@1/turns'} <= artifact.manifest.scores['skills'].keys()
  lines = (tmp_path / 'evaluations' / 'skills.jsonl').read_text().splitlines()
  assert [json.loads(line)['task'] for line in lines[::2]] == ['json', 'harmful', 'turns', 'json']
  alone = evaluate.run(stage_config(base), {}, tmp_path / 'alone')
  assert artifact.manifest.scores['sums'] == alone.manifest.scores['evaluate']
  with pytest.raises(ValueError, match='evaluations is empty'):
    evaluate.SEVERAL_SETTINGS.check(evaluate.SEVERAL, 'config.stages.base')


def test_shots_need_answers():
  with pytest.raises(ValueError, match='shots show answers'):
    evaluate.worked_answer({'question': 'q', 'tests': ['assert f(1) == 2']})


def test_shots_stand_before_every_question(base):
  config = stage_config(base, shots=2, max_prompt_length=256)
  tokenizer = load_tokenizer(base)
  shown = evaluate.shown_examples(config)
  train = {example['question']: example for example in datasets.load_examples(runs.DATA, 'train')}
  prompts = evaluate.problem_stream(config, tokenizer).batch(0)
  for tokens, length, example in zip(
      prompts.prompt_tokens, prompts.prompt_lengths, prompts.examples):
    want = ''.join(
        f'User: {question}\nAssistant: <think>{train[question]["reasoning"]}</think> '
        f'<answer>{train[question]["answer"]}</answer>\n' for question, _ in shown)
    assert tokenizer.decode(tokens[:length], skip_special=False) == (
        f'{want}User: {example["question"]}\nAssistant:')
  # Of the split that they come from, they are no problems.
  few = stage_config(
      base, shots=2, max_prompt_length=256, split='train', problems=62, prompts_per_batch=62)
  drawn = evaluate.problem_stream(few, tokenizer).batch(0)
  assert len(shown) == 2 and not {q for q, _ in shown} & {e['question'] for e in drawn.examples}
  with pytest.raises(ValueError, match='has only 62 prompts .* after shots=2'):
    evaluate.problem_stream(few | dict(problems=63), tokenizer)
  with pytest.raises(ValueError, match='shots=65, but the train split .* has 64 examples'):
    evaluate.problem_stream(config | dict(shots=65), tokenizer)
