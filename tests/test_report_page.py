"""The report of a made-up chain, against counts by hand and what the evaluations themselves say."""
import contextlib
import importlib.util
import io
import json

import matplotlib.figure
import numpy as np
import pytest
import rich.console
import runs

from r1jax import checkpoint, evaluate, metrics
from r1jax.models import compute
from r1jax.report import data as report_data
from r1jax.report import figures as report_figures
from r1jax.report import page as report
from r1jax.rewards.completion import Completion
from r1jax.runtime.storage import Path
from r1jax.stages.artifact import open_artifact

CONFIGS = {
    'zero': dict(kind='rl', inputs=(), seed=0, evaluations={'reasoning': dict(
        problems=20, completions_per_problem=8, template='miniature',
        sampling=dict(temperature=1.0, top_p=1.0, max_new_tokens=64))}),
    'draw': dict(kind='reject', inputs=('zero',), seed=0),
    'cold': dict(kind='sft', inputs=('draw', 'zero'), seed=0, evaluations={'reasoning': {}}),
    'helpful': dict(kind='reward_model', inputs=(), seed=0),
    'all': dict(kind='rl', inputs=('cold', 'helpful'), seed=0, evaluations={'reasoning': {}})}


def samples(seed, skill, count=8, problems=20):
  rng, records = np.random.default_rng(seed), []
  for problem in range(problems):
    for place in range(count):
      right = rng.random() < skill
      answer = problem if right else int(rng.integers(100, 103))
      records.append(dict(
          example_id=problem, sample=place, completion=f'<answer>{answer}</answer>',
          num_tokens=int(rng.integers(10, 60)), num_prompt_tokens=12,
          truncated=bool(rng.random() < 0.05), rewards={'reward': float(right)}))
  return records


def scores_of(records, count=8):
  read = [Completion(r['completion'], r['num_tokens'], r['truncated']) for r in records]
  return evaluate.scores(read, np.asarray([r['rewards']['reward'] >= 1 for r in records]),
                         [dict(question='?')] * (len(records) // count), num_samples=count)


def judged(step):
  """What a reward model leaves that judges from step 11 on; a truth is in even steps alone."""
  found = {'rewards/reward_model/helpful/mean': step / 50} if step > 10 else {}
  return found | ({'rewards/reward_model/helpful/truth': 1 - step / 50} if step % 2 == 0 else {})


def make_chain(workdir):
  """Artifacts as the stages leave them."""
  artifacts = {}
  for i, (name, config) in enumerate(CONFIGS.items()):
    folder, scores = Path(workdir) / name, {}
    if 'evaluations' in config:
      records = samples(i, 0.4 + 0.1 * i)
      (folder / 'evaluations' / 'reasoning.jsonl').write_text(
          ''.join(json.dumps(record) + '\n' for record in records))
      scores = {'reasoning': scores_of(records), 'general': {'skills': (0.2 * i, 0.1 * i, 0.25 * i)}}
    if config['kind'] == 'reject':
      scores = {'drawn': 100, 'kept': 20, 'refused/format': 30, 'correct': 60, 'pass@1': (.6, .5, .7)}
    if config['kind'] == 'reward_model':
      scores = {'before': {'accuracy': (0.5, 0.5, 0.5)}, 'examples': 900, 'after': {
          'accuracy': (0.9, 0.85, 0.95), 'calibration_error': 0.05, 'examples': 100}}
    if config['kind'] == 'rl':
      writer = metrics.MetricWriter(folder, resume_step=1)
      for step in range(1, 41):
        writer.write(step, {
            'rewards/number/mean': 1 - 1 / (1 + step / 10), 'completions/mean_length': 20 + step,
            'language_mixing': 0.5 / step, 'compute/trained': 1e12 * (i + 1),
            **(judged(step) if name == 'all' else {})})
      writer.close()
    checkpoint.write_manifest(folder, checkpoint.Manifest(
        config['kind'], name, f'hash of {name}', scores=scores, model=runs.SHAPE.to_dict(),
        compute=compute.Compute(sampled=10.0 ** i, trained_tokens=7).to_dict()))
    artifacts[name] = open_artifact(folder)
  return artifacts


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('chain')
  artifacts = make_chain(workdir)
  console = rich.console.Console(file=io.StringIO(), width=200)
  report.write(artifacts, workdir, stages=CONFIGS, console=console)
  return workdir, artifacts, console.file.getvalue()


def test_a_chain_adds_each_ancestor_once(written):
  _, artifacts, _ = written
  before = report_data.chain_compute(artifacts, CONFIGS)
  assert {name: found.total for name, found in before.items()} == {
      'zero': 0, 'draw': 1, 'cold': 11, 'helpful': 0, 'all': 1111}
  path = report_data.trajectory(artifacts['all'], before['all'])
  assert path.computed[-1] == pytest.approx(1111 + 40 * 5e12)


@pytest.mark.parametrize('count', [1, 5, 8])
def test_votes_and_budgets_are_those_of_the_samples(count):
  records = samples(0, 0.5, count)
  found, scores = report_data.votes_of(records, runs.SHAPE), scores_of(records, count)
  assert list(found.by_votes) == {1: [1], 5: [1, 2, 4], 8: [1, 2, 4, 8]}[count]
  if count == 8:
    assert found.by_votes[8] == scores['majority@8']
    assert found.operations[8] == pytest.approx(
        compute.evaluating(runs.SHAPE, records).evaluated / 20)
    assert found.tokens[8] == pytest.approx(8 * found.tokens[1])
  if count == 5:     # blocks are disjoint: the fifth sample has no part in a vote of four
    assert found.tokens[4] == pytest.approx(np.sum(
        [r['num_tokens'] for r in records if r['sample'] < 4]) / 20)
  blocks = [records[i * count + j] for i in range(20) for j in range(count)]
  for budget, value in found.by_budget.items():
    assert value[0] == pytest.approx(np.mean([
        r['rewards']['reward'] == 1 and not r['truncated'] and r['num_tokens'] <= budget
        for r in blocks]))
  assert max(found.by_budget) >= max(r['num_tokens'] for r in records)


def test_the_page_has_every_part_and_no_place(written):
  workdir, _, printed = written
  page = (workdir / 'results.md').read_text()
  for words in ('reasoning: mean', 'general: mean', 'Compute', 'held-out', 'Rejection sampling',
                'majority of votes', 'budget', 'against the truth', '| zero |', 'results.png',
                '20 problems, 8 completions of each', 'pass@k:', '| refused/format | 30 |'):
    assert words in page, words
  assert str(workdir) not in page and '0.9' in page
  assert 'reasoning: mean' in printed and 'Compute' in printed
  assert (workdir / 'results.png').read_bytes()[:4] == b'\x89PNG'


def test_a_reward_model_and_the_truth_are_compared_where_both_are_there(written):
  workdir, artifacts, _ = written
  path = report_data.trajectory(artifacts['all'], compute.Compute())
  found = report_data.beside_truth(path)
  assert found == {'helpful': [(step, step / 50, 1 - step / 50) for step in range(12, 41, 2)]}
  # The first three steps and the last three.
  assert '| all | helpful | 0.280 | 0.760 | 0.720 | 0.240 | 0.960 |' in (
      workdir / 'results.md').read_text()
  assert report_data.beside_truth(report_data.trajectory(artifacts['zero'], compute.Compute())) == {}


def test_no_two_stages_look_the_same():
  styles = report_figures._styles([str(i) for i in range(36)])
  assert len({tuple(style.values()) for style in styles.values()}) == 36
  assert len({(style['color'], style['linestyle']) for style in styles.values()}) == 36
  assert len({style['color'] for style in list(styles.values())[:9]}) == 9


def drawn(monkeypatch, *arguments):
  """The figure of `report_figures.draw`."""
  figures, save = [], matplotlib.figure.Figure.savefig
  monkeypatch.setattr(matplotlib.figure.Figure, 'savefig', lambda figure, *args, **more: (
      figures.append(figure), save(figure, *args, **more))[1])
  assert report_figures.draw(*arguments)[:4] == b'\x89PNG'
  return figures[0]


def test_every_stage_is_told_apart_and_keeps_its_look_in_every_panel(monkeypatch):
  names = [f'stage {i}' for i in range(9)]
  table = {name: {'reasoning': {'pass@1': (i / 10, i / 10 - 0.02, i / 10 + 0.05)}}
           for i, name in enumerate(names)}
  votes = {name: report_data.votes_of(samples(i, 0.5, 4, 5)) for i, name in enumerate(names)}
  computed = {name: compute.Compute(trained=1e9 * i) for i, name in enumerate(names)}
  figure = drawn(monkeypatch, table, votes, {}, computed)
  legend, = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == names
  colours = {name: line.get_color() for name, line in zip(names, legend.get_lines())}
  assert len(set(colours.values())) == 9 and len(figure.axes) == 3
  for axis in figure.axes:
    assert axis.get_legend() is None
    handles, labels = axis.get_legend_handles_labels()
    assert labels == names
    for name, handle in zip(labels, handles):
      line = handle if hasattr(handle, 'get_color') else handle.lines[0]
      assert line.get_color() == colours[name]
  points = [handle.lines[0].get_xydata()[0] for handle in
            figure.axes[0].get_legend_handles_labels()[0]]
  np.testing.assert_allclose([y for _, y in points], np.arange(9) / 10)
  np.testing.assert_allclose([x for x, _ in points][1:], 1e9 * np.arange(1, 9))
  assert 0 < points[0][0] < 1e9    # what cost nothing, on the left


def test_reward_models_share_an_axis_from_0_to_1_with_the_truth(monkeypatch):
  records = [{'step': step, **{f'rewards/reward_model/{name}/{what}': step / 10 for name in 'ab'
                               for what in ('mean', 'truth')}} for step in range(1, 4)]
  figure = drawn(monkeypatch, {}, {}, {'r1': report_data.Trajectory(records, [1.0] * 3)},
                 {'r1': compute.Compute()})
  axis, = figure.axes
  looks = {(line.get_color(), line.get_linestyle()) for line in axis.get_lines()}
  assert len(looks) == 4 and axis.get_ylim()[0] <= 0 < 1 <= axis.get_ylim()[1]
  assert len(axis.get_legend().get_texts()) == 4


def test_the_numbers_are_kept_and_the_same_in_a_bucket(written, tmp_path):
  workdir, artifacts, _ = written
  found = json.loads((workdir / 'results.json').read_text())
  assert list(found) == ['zero', 'cold', 'all', 'helpful']
  for stage in ('zero', 'cold', 'all'):
    for score, value in artifacts[stage].manifest.scores['reasoning'].items():
      assert found[stage][f'reasoning {score}'] == list(value)
  assert found['helpful'] == {'held-out accuracy': [0.9, 0.85, 0.95]}
  assert 'votes 8' in found['zero'] and 'general skills' in found['all']
  bucket = Path(f'memory://{tmp_path.name}')
  report.write(make_chain(bucket), bucket, stages=CONFIGS,
               console=rich.console.Console(file=io.StringIO()))
  for name in ('results.md', 'results.json'):
    assert (bucket / name).read_text() == (workdir / name).read_text()


def test_a_chain_without_samples_or_metrics_has_a_page(tmp_path):
  checkpoint.write_manifest(tmp_path / 'one', checkpoint.Manifest(
      'evaluate', 'one', 'x', scores={'reasoning': {'pass@1': (0.5, 0.4, 0.6)}}))
  report.write({'one': open_artifact(tmp_path / 'one')}, tmp_path,
               stages={'one': dict(kind='evaluate', inputs=())},
               console=rich.console.Console(file=io.StringIO()))
  assert 'results.png' not in (tmp_path / 'results.md').read_text()
  assert not (tmp_path / 'results.png').exists()


def test_seeds_are_tabulated_by_evaluation(tmp_path):
  spec = importlib.util.spec_from_file_location('tab', runs.ROOT / 'experiments' / 'tabulate.py')
  tabulate = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(tabulate)
  for seed, value in enumerate((0.4, 0.6)):
    (tmp_path / str(seed)).mkdir()
    (tmp_path / str(seed) / 'results.json').write_text(json.dumps({'zero': {
        'few-shot pass@1': [value, 0, 1], 'general skills': [0.5, 0.4, 0.6]}}))
  with contextlib.redirect_stdout(io.StringIO()) as out:
    tabulate.main([str(tmp_path / '0'), str(tmp_path / '1')])
  assert 'few-shot: mean' in out.getvalue() and 'general: mean' in out.getvalue()
  assert '| zero | 2 | 0.500 [0.400, 0.600] |' in out.getvalue()
  assert tabulate.by_evaluation({'pass@1': 1}) == {'': {'pass@1': 1}}
