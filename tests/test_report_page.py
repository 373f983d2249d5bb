"""The page of a made-up chain: its parts, its numbers, and that it names no place."""
import contextlib
import importlib.util
import io
import json

import chains
import pytest
import rich.console
import runs

from r1jax import checkpoint
from r1jax.report.page import write_report
from r1jax.runtime.storage import Path
from r1jax.stages.artifact import open_artifact


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('chain')
  artifacts = chains.make_chain(workdir)
  console = rich.console.Console(file=io.StringIO(), width=200)
  write_report(artifacts, workdir, stages=chains.CONFIGS, console=console)
  return workdir, artifacts, console.file.getvalue()


def test_the_page_has_every_part_and_no_place(written):
  workdir, _, printed = written
  page = (workdir / 'results.md').read_text()
  for words in ('reasoning: mean', 'general: mean', 'Compute', 'held-out', 'Rejection sampling',
                'majority vote', 'budget', 'against the truth', '| zero |', 'results.png',
                '20 problems, 8 completions of each', 'pass@k:', '| refused/format | 30 |',
                '| rates | 40 | 0.500 [0.400, 0.600] | 21 | 19 |'):
    assert words in page, words
  assert str(workdir) not in page and '0.9' in page
  assert 'reasoning: mean' in printed and 'Compute' in printed
  assert (workdir / 'results.png').read_bytes()[:4] == b'\x89PNG'


def test_the_page_tells_how_far_a_reward_model_and_the_truth_are_apart(written):
  workdir, _, _ = written
  # Means over three steps each, the first ones and the last ones.
  assert '| all | helpful | 0.280 | 0.760 | 0.720 | 0.240 | 0.960 |' in (
      workdir / 'results.md').read_text()


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
  write_report(chains.make_chain(bucket), bucket, stages=chains.CONFIGS,
               console=rich.console.Console(file=io.StringIO()))
  for name in ('results.md', 'results.json'):
    assert (bucket / name).read_text() == (workdir / name).read_text()


def test_a_chain_without_samples_or_metrics_has_a_page(tmp_path):
  checkpoint.write_manifest(tmp_path / 'one', checkpoint.Manifest(
      'evaluate', 'one', 'x', scores={'reasoning': {'pass@1': (0.5, 0.4, 0.6)}}))
  write_report({'one': open_artifact(tmp_path / 'one')}, tmp_path,
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
