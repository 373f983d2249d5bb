import json
import re

import pytest
import runs
from runs import base, compiled, no_curves, one_device  # noqa: F401 (fixtures)

from r1jax import metrics, pipeline
from r1jax.stages import reject
from r1jax.storage import Path


def chain():
  """Draw from the miniature, fine-tune it on its own correct samples, evaluate what it became."""
  short = dict(sampling=dict(max_new_tokens=16, chunk=16), data=runs.DATA, max_prompt_length=32)
  draw = runs.merged(reject.DEFAULT, dict(problems=4, prompts=2, samples=4, **short))
  tuned = runs.sft_config('miniature', rows=1, epochs=1, optimizer=dict(learning_rate=1e-4))
  scored = runs.evaluation_config(kind='evaluate', inputs=('tuned', 'draw'),
                                  model=dict(source='tuned'), **short)
  return stages(draw=draw, tuned=tuned, scored=scored)


def stages(**fields):
  return dict(stages=fields, mesh=dict(fsdp=1, tensor=1))


def files(folder):
  return {name: (Path(folder) / name).read_bytes() for name in Path(folder).file_sizes()
          if '/tensorboard/' not in name}


@pytest.mark.slow
def test_stages_are_chained_each_once(compiled, one_device, tmp_path, capsys):
  config = chain()
  artifacts = pipeline.run(config, tmp_path)
  kinds = {name: artifact.manifest.kind for name, artifact in artifacts.items()}
  assert kinds == dict(draw='reject', tuned='sft', scored='evaluate')
  parents = {name: artifact.manifest.parents for name, artifact in artifacts.items()}
  hashes = {name: artifact.manifest.config_hash for name, artifact in artifacts.items()}
  assert parents == dict(draw=(), tuned=(hashes['draw'],),
                         scored=(hashes['tuned'], hashes['draw']))

  before = files(tmp_path)
  capsys.readouterr()
  again = pipeline.run(config, tmp_path)
  assert capsys.readouterr().out.count(' is done: ') == 3
  assert files(tmp_path) == before
  assert {name: artifact.manifest.config_hash for name, artifact in again.items()} == hashes

  config['stages']['tuned'] = runs.merged(config['stages']['tuned'], dict(epochs=2))
  with pytest.raises(ValueError, match="tuned holds the result of another config of stage 'tuned'"):
    pipeline.run(config, tmp_path)
  (Path(tmp_path) / 'tuned').remove()
  with pytest.raises(ValueError, match="scored holds the result of another config of stage 'sc"):
    pipeline.run(config, tmp_path)     # its own config is the same, its parent is not


def test_a_run_that_was_stopped_goes_on_with_its_stage(base, one_device, tmp_path):
  config = stages(zero=runs.rl_config(base), scored=runs.evaluation_config(
      kind='evaluate', inputs=('zero',), model=dict(source='zero')))
  run = lambda name, should_stop: pipeline.run(config, tmp_path / name, should_stop=should_stop)
  run('whole', lambda: False)
  # Two questions an iteration: at its chunk and its end; one in the evaluation.
  _, sentences = runs.finish(lambda should_stop: run('stopped', should_stop), [2, 3])
  assert "stage 'zero' was asked" in sentences[0] and 'an evaluation was asked' in sentences[1]
  runs.assert_same(tmp_path / 'stopped' / 'zero', tmp_path / 'whole' / 'zero')
  results = [(tmp_path / name / 'scored' / 'results.json').read_text()
             for name in ('stopped', 'whole')]
  assert results[0] == results[1]


ZERO = runs.rl_config('miniature')
REFUSED = {
    'no stage': (stages(), 'config.stages is empty'),
    'a number': (stages(zero=3), 'config.stages.zero=3 is no stage'),
    'kind': (stages(zero=ZERO | dict(kind='rlhf')), "kind='rlhf' is unknown: the nearest is 'rl'"),
    'no kind': (stages(zero={}), 'kind=None is unknown'),
    'field': (stages(zero=ZERO | dict(stepz=2)),
              r'config.stages.zero.stepz is no field: did you mean config.stages.zero.steps\?'),
    'top': (stages(zero=ZERO) | dict(stagez={}), r'config.stagez .*did you mean config.stages\?'),
    'mesh': (dict(stages=dict(zero=ZERO), mesh=dict(fsdp=1, tensr=1)), 'did you mean .*tensor'),
    'no such input': (stages(zero=ZERO | dict(inputs=('base',))),
                      r"zero.inputs names 'base', which is no earlier stage: use one of \[\]"),
    'a later input': (stages(zero=ZERO | dict(inputs=('one',)), one=ZERO),
                      "zero.inputs names 'one', which is no earlier stage"),
    'itself': (stages(zero=ZERO | dict(inputs=('zero',))), 'is no earlier stage'),
    'inputs': (stages(zero=ZERO | dict(inputs='base')), "inputs='base' is a str: make it a tuple"),
    'a later stage': (stages(zero=ZERO, one=ZERO | dict(template='r1zero')),
                      "config.stages.one.template='r1zero' is unknown"),
}


@pytest.mark.parametrize('case', REFUSED)
def test_a_pipeline_that_cannot_run_is_refused_before_it_begins(case, tmp_path):
  config, sentence = REFUSED[case]
  with pytest.raises(ValueError, match=sentence) as refusal:
    pipeline.run(config, tmp_path / 'run')
  assert '\n' not in str(refusal.value) and not (tmp_path / 'run').exists()


def test_a_mesh_that_does_not_fit_is_refused(tmp_path):
  config = stages(zero=ZERO) | dict(mesh=dict(fsdp=3, tensor=1))
  with pytest.raises(ValueError, match=r'mesh \(fsdp=3, tensor=1\) does not fit 8 device'):
    pipeline.run(config, tmp_path)


def test_a_line_that_is_no_json_is_named(one_device, tmp_path):
  for line, complaint in (
      ('no JSON', 'this is no JSON'), ('{"prompt": "1+1?"}', '"answer" is missing')):
    (tmp_path / 'train.jsonl').write_text('{"prompt": "1+1?", "answer": 2}\n' + line + '\n')
    config = stages(zero=ZERO | dict(data=dict(name='jsonl', folder=str(tmp_path))))
    with pytest.raises(ValueError, match=re.escape(f'{tmp_path}/train.jsonl, line 2: ') + '.*' +
                       re.escape(complaint)):
      pipeline.run(config, tmp_path / 'run')


def test_a_users_own_questions_are_trained_on(base, one_device, tmp_path):
  questions = [dict(prompt=f'What is {n}+1?', answer=n + 1) for n in range(8)]
  for split in ('train', 'test'):
    (tmp_path / f'{split}.jsonl').write_text(''.join(json.dumps(q) + '\n' for q in questions))
  data = dict(name='jsonl', folder=str(tmp_path))
  zero = runs.rl_config(base) | dict(data=data)
  zero['evaluations'] = {'trained': runs.evaluation_config() | dict(data=data)}
  pipeline.run(stages(zero=zero), tmp_path / 'run')
  prompts = {record['prompt'] for record in metrics.read_jsonl(tmp_path / 'run/zero/rollouts')}
  assert prompts < {f'User: {q["prompt"]}\nAssistant:' for q in questions} and len(prompts) == 4
