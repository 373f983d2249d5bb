import json
import re
import threading
import types
import uuid

import numpy as np
import pytest
import runs
from runs import base, compiled, no_curves, one_device  # noqa: F401 (fixtures)

from r1jax import checkpoint, metrics, pipeline
from r1jax.models.compute import Compute
from r1jax.runtime.storage import Path
from r1jax.stages import reject
from r1jax.stages.artifact import open_artifact
from r1jax.stages.config import Field, Section
from r1jax.stages.fields import common
from r1jax.stages.stage import StopRequested, begin, leave_files, owns_folder


def chain():
  """Draw from the miniature, fine-tune it on its own correct samples, evaluate what it became."""
  short = dict(sampling=dict(max_new_tokens=16, chunk=16), data=runs.DATA, max_prompt_length=32)
  draw = runs.merged(reject.DEFAULT, dict(
      problems=4, prompts_per_batch=2, completions_per_problem=4, **short))
  tuned = runs.sft_config('miniature', rows=1, epochs=1, optimizer=dict(learning_rate=1e-4))
  scored = runs.evaluation_config(kind='evaluate', inputs=('tuned', 'draw'),
                                  model=dict(source='tuned'), **short)
  return stages(draw=draw, tuned=tuned, scored=scored)


def stages(**fields):
  return dict(stages=fields, mesh=dict(fsdp=1, tensor=1))


def files(folder):
  return {name: (Path(folder) / name).read_bytes() for name in Path(folder).file_sizes()
          if 'tensorboard/' not in name}


@pytest.mark.slow
def test_stages_are_chained_each_once(compiled, one_device, tmp_path, capsys):
  config = chain()
  artifacts = pipeline.run(config, tmp_path)
  kinds = {name: artifact.manifest.kind for name, artifact in artifacts.items()}
  assert kinds == dict(draw='reject', tuned='sft', scored='evaluate')
  parents = {name: artifact.manifest.parents for name, artifact in artifacts.items()}
  hashes = {name: artifact.manifest.identity for name, artifact in artifacts.items()}
  assert parents == dict(draw={}, tuned={'draw': hashes['draw']},
                         scored={name: hashes[name] for name in ('tuned', 'draw')})

  before = files(tmp_path)
  capsys.readouterr()
  again = pipeline.run(config, tmp_path)
  assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == [
      'state', 'done', 'done', 'done']
  assert files(tmp_path) == before
  assert {name: artifact.manifest.identity for name, artifact in again.items()} == hashes

  config['stages']['tuned'] = runs.merged(config['stages']['tuned'], dict(epochs=2))
  pipeline.run(config, tmp_path)

  def files_before(name):
    return {file.removeprefix(f'{name}/'): content for file, content in before.items()
            if file.startswith(f'{name}/')}
  assert files(tmp_path / 'draw') == files_before('draw')
  told = capsys.readouterr().out
  for name, why in (('tuned', r': config.epochs changed \(the learning rate follows a cosine .*\)'),
                    ('scored', " because its input 'tuned' is new")):
    old = re.search(f"stage '{name}' runs again{why}; its old result is in (.*)", told)
    assert files(Path(old[1])) == files_before(name)


def test_a_run_that_was_stopped_goes_on_with_its_stage(base, one_device, tmp_path):
  config = stages(zero=runs.rl_config(base), scored=runs.evaluation_config(
      kind='evaluate', inputs=('zero',), model=dict(source='zero')))

  def run(name, should_stop):
    return pipeline.run(config, tmp_path / name, should_stop=should_stop)
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
    'no stage': (stages(), 'config.stages must name at least one stage, got {}'),
    'a name': (stages(**{'../zero': ZERO}), "names that can be folders .* got '../zero'"),
    'a hidden name': (stages(**{'.zero': ZERO}), "names that can be folders"),
    'a name of files': (stages(**{'results.json': ZERO}), "the name 'results.json', which is that"),
    'names alike': (stages(zero=ZERO, Zero=ZERO), "the names 'zero' and 'Zero', which some disks"),
    'an evaluation': (stages(zero=ZERO | dict(evaluations={
        '../../escape': runs.evaluation_config()})),
        r"zero.evaluations must have names that can be folders .* got '../../escape'"),
    'a reward model': (stages(zero=ZERO | dict(reward_models={'a/b': {}})),
                       r"zero.reward_models must have names that can be folders .* got 'a/b'"),
    'a number': (stages(zero=3), 'config.stages.zero must hold a kind and its fields, got 3'),
    'kind': (stages(zero=ZERO | dict(kind='rlhf')),
             "kind must be one of .*got 'rlhf': did you mean 'rl'"),
    'no kind': (stages(zero={}), 'kind must be one of .*got None'),
    'field': (stages(zero=ZERO | dict(stepz=2)),
              r'config.stages.zero.stepz is not a field: did you mean config.stages.zero.steps\?'),
    'top': (stages(zero=ZERO) | dict(stagez={}), r'config.stagez .*did you mean config.stages\?'),
    'mesh': (dict(stages=dict(zero=ZERO), mesh=dict(fsdp=1, tensr=1)), 'did you mean .*tensor'),
    'no such input': (stages(zero=ZERO, one=ZERO | dict(inputs=('zeroo',))),
                      "one.inputs names 'zeroo', which is not a stage: did you mean 'zero'"),
    'itself': (stages(zero=ZERO | dict(inputs=('zero',))), r"cycle \('zero' reads 'zero'\)"),
    'a cycle': (stages(zero=ZERO | dict(inputs=('b',)), a=ZERO, b=ZERO | dict(inputs=('a', 'c')),
                       c=ZERO | dict(inputs=('b',))), r"cycle \('b' reads 'c', 'c' reads 'b'\)"),
    'a source': (stages(zero=ZERO, one=ZERO | dict(model=dict(ZERO['model'], source='zero'))),
                 r"config.stages.one.model.source='zero' is a stage that .*one.inputs lacks"),
    'a source within': (stages(zero=ZERO, one=ZERO | dict(
        evaluations=dict(first=runs.evaluation_config(model=dict(source='zero'))))),
        r"config.stages.one.evaluations.first.model.source='zero' is a stage"),
    'inputs': (stages(zero=ZERO | dict(inputs='base')), "inputs must be a tuple .*got 'base'"),
    'a later stage': (stages(zero=ZERO, one=ZERO | dict(template='r1zero')),
                      "config.stages.one.template must be one of .*got 'r1zero'"),
}


@pytest.mark.parametrize('case', REFUSED)
def test_a_pipeline_that_cannot_run_is_refused_before_it_begins(case, tmp_path):
  config, sentence = REFUSED[case]
  with pytest.raises(ValueError, match=sentence) as refusal:
    pipeline.run(config, tmp_path / 'run')
  assert '\n' not in str(refusal.value) and not (tmp_path / 'run').exists()


def test_a_mesh_that_does_not_fit_is_refused(tmp_path):
  config = stages(zero=ZERO) | dict(mesh=dict(fsdp=3, tensor=1))
  with pytest.raises(ValueError, match=r'fsdp=3, .*tensor=1\) does not fit 8 device'):
    pipeline.run(config, tmp_path)


def test_a_line_that_is_no_json_is_named(one_device, tmp_path):
  for line, complaint in (
      ('no JSON', 'this is not valid JSON'), ('{"prompt": "1+1?"}', '"answer" is missing')):
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


# Stages that compute nothing: what a chain of them runs, and why.

SUM_SETTINGS = Section(common('sum') | dict(
    number=Field(0, 'its own'),
    more=Section(dict(steps=Field(2, 'each of which is saved'), scale=Field(1.0, 'not used'))),
    logging=Section(dict(every=Field(1, 'not used')), how=True)))
SUM = SUM_SETTINGS.default


def run_sum(ran, config, inputs, workdir, **options):
  """Leaves its number and its inputs' sum, after `steps` steps of which each is saved."""
  run = begin('sum', SUM_SETTINGS, config, inputs, workdir, **options)
  with checkpoint.Checkpointer(workdir / 'checkpoints') as checkpoints:
    first = checkpoints.latest_step() or 0
    ran.append((run.name, first))
    for step in range(first, config['more']['steps']):
      if run.should_stop():
        raise StopRequested(f'stopped after {step} steps')
      checkpoints.save(step + 1, {'x': np.zeros(1)}, {'identity': run.resume_identity})
  total = config['number'] + sum(
      int((artifact.folder / 'sum').read_text()) for artifact in inputs.values())
  (workdir / 'sum').write_text(str(total))
  return leave_files(run, files=('sum',), template='', scores={}, compute=Compute())


@pytest.fixture
def ran(monkeypatch, one_device):
  """(stage, step it began at) of the stages of kind 'sum' that ran, to be cleared by the test."""
  ran = []
  monkeypatch.setitem(pipeline.KINDS, 'sum', types.SimpleNamespace(
      SETTINGS=SUM_SETTINGS, run=lambda *args, **keywords: run_sum(ran, *args, **keywords)))
  return ran


@pytest.fixture(params=['local', 'memory'])
def workdir(request, tmp_path):
  return Path(tmp_path / 'run' if request.param == 'local' else f'memory://{uuid.uuid4().hex}/run')


def sums(**changes):
  """d reads b and c, which read a; e stands alone. `a__number=2` sets a field of a."""
  inputs = dict(d=('b', 'c'), b=('a',), c=('a',), a=(), e=())   # not in the order of running
  config = {name: runs.merged(SUM, dict(inputs=inputs[name], number=1)) for name in inputs}
  for field, value in changes.items():
    name, *path = field.split('__')
    for part in reversed(path):
      value = {part: value}
    config[name] = runs.merged(config[name], value)
  return stages(**config)


def do(config, workdir, ran, **keywords):
  """The names of the stages that this run runs."""
  ran.clear()
  pipeline.run(config, workdir, **keywords)
  return [name for name, _ in ran]


def states(config, workdir, **keywords):
  return {stage.name: str(stage) for stage in pipeline.state(config, workdir, **keywords)}


def value(workdir, name='d'):
  return int((workdir / name / 'sum').read_text())


def test_stages_run_after_their_inputs_wherever_they_stand(ran, workdir):
  assert do(sums(), workdir, ran) == ['a', 'b', 'c', 'd', 'e'] and value(workdir) == 5
  assert do(sums(), workdir, ran) == []


def test_a_change_reaches_what_depends_on_it_and_nothing_else(ran, workdir, capsys):
  pipeline.run(sums(), workdir)
  capsys.readouterr()
  changed = sums(b__number=10, b__more__scale=2.0)
  assert do(changed, workdir, ran) == ['b', 'd'] and value(workdir) == 14
  told = capsys.readouterr().out
  old = {name: re.search(rf"stage '{name}' runs again(.*); its old result is in (.*)", told)
         for name in 'bd'}
  assert old['b'][1] == ': config.more.scale, config.number changed'
  assert old['d'][1] == " because its input 'b' is new"
  assert int((Path(old['d'][2]) / 'sum').read_text()) == 5
  assert str(old['d'][2]).startswith(f'{workdir}/d.old-')
  assert do(changed, workdir, ran) == []
  # The grandparent's change is seen two stages below, though none of these is changed itself.
  assert do(sums(a__number=3, b__number=10), workdir, ran) == ['a', 'b', 'c', 'd']
  assert do(sums(a__logging__every=7, a__number=3, b__number=10), workdir, ran) == []


def test_a_change_is_seen_after_its_rerun_was_cut_short(ran, workdir):
  pipeline.run(sums(), workdir)
  changed = sums(a__number=3)
  assert do(changed, workdir, ran, only=['a']) == ['a']
  assert do(changed, workdir, ran, only=['b']) == ['b']
  assert states(changed, workdir)['c'] == "runs again because its input 'a' is new"
  assert states(changed, workdir)['d'] == "runs again because its input 'b' is new"
  assert do(changed, workdir, ran) == ['c', 'd'] and value(workdir) == 9


def test_no_result_is_lost_by_going_to_and_fro(ran, workdir):
  for number in (1, 2, 1, 2, 1):
    pipeline.run(sums(e__number=number), workdir, only=['e'])
  old = [path for path in workdir.iterdir() if path.name.startswith('e.old-')]
  assert sorted(value(workdir, path.name) for path in old) == [1, 1, 2, 2]
  assert value(workdir, 'e') == 1


def test_an_interrupted_stage_goes_on_unless_its_config_or_inputs_changed(ran, workdir):
  with pytest.raises(StopRequested, match='stopped after 1 steps'):
    pipeline.run(sums(), workdir, should_stop=runs.stop_at(4))      # a takes two questions
  assert states(sums(), workdir) == dict(
      a='done', b='resumes at step 1', c='runs', d='runs', e='runs')
  assert states(sums(b__number=2), workdir)['b'] == 'runs again: config.number changed'
  assert states(sums(a__number=2), workdir)['b'] == "runs again because its input 'a' is new"
  assert do(sums(), workdir, ran) == ['b', 'c', 'd', 'e'] and ran[0] == ('b', 1)
  with pytest.raises(StopRequested):
    pipeline.run(sums(e__number=2), workdir, should_stop=lambda: True)
  assert states(sums(e__number=2), workdir)['e'] == 'resumes, no step is saved'


def test_a_result_without_a_record_is_known_by_its_manifest_or_checkpoint(ran, tmp_path):
  for name, inputs in (('a', ()), ('b', ('a',)), ('c', ('a',)), ('d', ('b', 'c'))):
    stage = sums()['stages'][name]
    inputs = {needed: open_artifact(tmp_path / needed) for needed in inputs}
    run_sum(ran, stage, inputs, Path(tmp_path / name), stage=name, mesh=None,
            should_stop=lambda: False)
  found = states(sums(), tmp_path)
  assert [found[name] for name in 'abcd'] == ['done'] * 4
  assert states(sums(a__number=2), tmp_path)['a'] == 'runs again: config.number changed'
  assert states(sums(a__number=2), tmp_path)['b'] == "runs again because its input 'a' is new"
  for name in 'abcd':
    (Path(tmp_path) / name / 'stage.json').remove()
  found = states(sums(), tmp_path)
  assert [found[name] for name in 'abcd'] == ['done'] * 4
  assert states(sums(a__number=2), tmp_path)['a'] == 'runs again: its config changed'
  (Path(tmp_path) / 'a' / 'manifest.json').remove()
  assert states(sums(), tmp_path)['a'] == 'resumes at step 2'
  assert states(sums(a__number=2), tmp_path)['a'] == 'runs again: its config changed'


def test_only_from_and_until_choose_stages(ran, workdir):
  def chosen(**keywords):
    return do(sums(), workdir, ran, **keywords)
  assert chosen(until='b') == ['a', 'b']
  assert chosen(from_='c', until='c') == ['c']
  assert chosen(from_='b') == ['d']           # b is done, c is there, e does not depend on it
  assert chosen(only='e') == ['e']
  assert do(sums(a__number=2), workdir, ran, from_='a', until='b') == ['a', 'b']
  assert states(sums(a__number=2), workdir, only=['b']) == dict(
      a='done', b='done', c="left out: out of date because its input 'a' is new",
      d="left out: out of date because its input 'b' is new", e='done')


def test_a_choice_that_cannot_run_is_refused_by_name(ran, tmp_path):
  for keywords, sentence in (
      (dict(only=['ee']), "only='ee' is not a stage: did you mean 'e'"),
      (dict(from_='aa'), "from='aa' is not a stage: did you mean 'a'"),
      (dict(until='x'), "until='x' is not a stage: did you mean "),
      (dict(only=['a'], until='b'), 'only goes with neither from nor until'),
      (dict(from_='e', until='d'), "until='d' does not depend on from='e'"),
      (dict(only=['b']), "stage 'b' reads 'a', which is left out: not there; run 'a', too"),
      (dict(from_='b'), "stage 'b' reads 'a', which is left out: not there")):
    with pytest.raises(ValueError, match=sentence):
      pipeline.run(sums(), tmp_path / 'run', **keywords)
  assert not ran and not (tmp_path / 'run').exists()
  pipeline.run(sums(), tmp_path / 'run', until='b')
  with pytest.raises(ValueError, match="reads 'a', which is left out: out of date: config.number "):
    pipeline.run(sums(a__number=2), tmp_path / 'run', only=['b'])
  with pytest.raises(StopRequested):
    pipeline.run(sums(), tmp_path / 'run', only=['c'], should_stop=lambda: True)
  with pytest.raises(ValueError, match="stage 'd' reads 'c', which is left out: not finished"):
    pipeline.run(sums(), tmp_path / 'run', only=['d'])


def test_the_plan_is_listed_before_anything_runs_and_changes_nothing(ran, workdir, capsys):
  assert states(sums(), workdir)['a'] == 'runs' and not workdir.exists()
  pipeline.run(sums(), workdir, until='b')
  before = workdir.file_sizes()
  listed = pipeline.listing(pipeline.state(sums(b__number=2), workdir, from_='b', until='b'))
  assert listed.splitlines() == [
      'stage  kind  inputs  state',
      'a      sum   -       done',
      'b      sum   a       runs again: config.number changed',
      'c      sum   a       left out: not there',
      'd      sum   b, c    left out: not there',
      'e      sum   -       left out: not there']
  assert workdir.file_sizes() == before
  capsys.readouterr()
  pipeline.run(sums(b__number=2), workdir, from_='b', until='b')
  assert capsys.readouterr().out.startswith(listed + '\n')


# One run owns a workdir.


def beside(function):
  """A `should_stop` that once calls a function in another thread; what that raised is appended."""
  raised = []

  def start():
    try:
      function()
      raised.append(None)
    except ValueError as error:
      raised.append(str(error))

  def should_stop():
    if not raised:
      thread = threading.Thread(target=start)
      thread.start()
      thread.join()
    return False
  return should_stop, raised


def test_a_second_start_is_refused_and_the_first_one_goes_on(ran, workdir):
  pipeline.run(sums(), workdir, only=['a'])
  second, raised = beside(lambda: pipeline.run(sums(a__number=7, b__number=7), workdir))
  pipeline.run(sums(), workdir, should_stop=second)
  assert re.match(f'{workdir} is in use by another run .process .*: let that end', raised[0])
  assert value(workdir) == 5 and sorted(path.name for path in workdir.iterdir()) == list('abcde')


def test_a_stage_by_itself_and_its_chain_refuse_each_other(ran, workdir, monkeypatch):
  one = sums()['stages']['a']
  alone = owns_folder(pipeline.KINDS['sum'].run)

  def run_alone(should_stop=lambda: False):
    return alone(one, {}, workdir / 'a', stage='a', mesh=None, should_stop=should_stop)
  second, raised = beside(run_alone)
  pipeline.run(sums(), workdir, should_stop=second)
  assert re.match(f'{workdir} is in use', raised[0])
  (workdir / 'a').remove()
  second, raised = beside(lambda: pipeline.run(sums(), workdir))
  run_alone(second)
  assert re.match(f'{workdir}/a is in use', raised[0]) and value(workdir, 'a') == 1
  monkeypatch.setattr(pipeline.KINDS['sum'], 'run', alone)    # within a chain it is part of that
  assert do(sums(b__number=2), workdir, ran) == ['b', 'd']


def test_looking_needs_no_ownership(ran, workdir):
  looked, raised = beside(lambda: pipeline.dry_run(sums(), workdir))
  pipeline.run(sums(), workdir, should_stop=looked)
  assert raised == [None]


def test_a_run_that_is_refused_leaves_no_trace(ran, workdir):
  with pytest.raises(ValueError, match="only='x' is not a stage"):
    pipeline.run(sums(), workdir, only=['x'])
  assert list(workdir.iterdir()) == []
