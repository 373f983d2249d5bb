"""The page at the end of a chain: what each stage achieved, what it took, and how training went.

`write_report` writes `results.md`, `results.json` and `results.png`. They depend only on the
Artifacts and contain neither times nor paths, so a chain that was killed and run again ends with
the same files.
"""
from collections.abc import Iterable, Mapping
from typing import Any

from r1jax import metrics
from r1jax.report import sections
from r1jax.report.data import (
  ScoreTable,
  Votes,
  chain_compute,
  evaluation_scores,
  intervals,
  own_compute,
  read_trajectory,
  read_votes,
)
from r1jax.report.figures import draw
from r1jax.report.sections import Section
from r1jax.runtime.storage import Path, to_json
from r1jax.stages.artifact import Artifact

# Explanations of scores; a name that ends in '@' stands for all that begin with it.
_MEANINGS = {
    'pass@': 'pass@k: the probability that at least one of k completions is correct, estimated '
             'without bias from all samples of a problem; pass@1 is the mean accuracy',
    'majority@': 'majority@n: whether the most frequent answer of n completions is correct; of '
                 'tied answers, the share that is',
    'format': 'format: share of completions with each tag once, in order, and nothing outside',
    'mean_length': 'mean_length: tokens per completion',
    'reflective_words': 'reflective_words: words such as "wait" or "check" per completion',
    'language_mixing': 'language_mixing: share of completions in more than one language',
    'language_consistency': 'language_consistency: share of the words of the reasoning that are in '
                            'the language of the question',
    'readable': 'readable: share of completions that a person can read: right format, one '
                'language, no repetition, no code, no long paragraphs',
    'skills': 'skills: share of general tasks done correctly, judged by rules, averaged over tasks',
}


def write_report(
    artifacts: Mapping[str, Artifact], workdir: str | Path, *,
    stages: Mapping[str, Mapping[str, Any]], console=None,
) -> None:
  """Writes the report of a chain, and prints its tables of scores and of compute.

  Args:
    artifacts: the stages' Artifacts by name, each after its inputs.
    workdir: a local or remote folder for results.md, results.png and results.json, which has
      {stage: {column: [mean, low, high]}} with columns named '<evaluation> <score>'.
    stages: the stages' configs by name.
    console: a rich console; standard output if None.
  """
  workdir = Path(workdir)
  table = evaluation_scores(artifacts)
  votes = {name: found for name, artifact in artifacts.items()
           if name in table and (found := read_votes(artifact))}
  before = chain_compute(artifacts, stages)
  trajectories = {name: read_trajectory(artifact, before[name])
                  for name, artifact in artifacts.items() if artifact.manifest.kind == 'rl'}
  printed = [*sections.score_sections(table), sections.compute_section(artifacts, before)]
  for section in printed:
    metrics.print_table(section.rows, section.title, console=console)
  content = [*printed, sections.reward_model_section(artifacts),
             sections.rejection_section(artifacts), sections.pass_rate_section(artifacts),
             *sections.vote_sections(votes),
             sections.truth_section(trajectories), sections.training_section(trajectories)]
  figure = draw(table, votes, trajectories, {
      name: before[name] + own_compute(artifact) for name, artifact in artifacts.items()})
  (workdir / 'results.md').write_text(
      _page(artifacts, stages, content, table, image=figure is not None))
  (workdir / 'results.json').write_text(to_json(_columns(table, votes, artifacts)))
  if figure is not None:
    (workdir / 'results.png').write_bytes(figure)


def _columns(
    table: ScoreTable, votes: Mapping[str, Votes], artifacts: Mapping[str, Artifact],
) -> dict[str, dict[str, Any]]:
  """{stage: {column: (mean, low, high)}}, for results.json."""
  columns: dict[str, dict[str, Any]] = {
      stage: {f'{evaluation} {score}': value for evaluation, values in found.items()
              for score, value in values.items()} for stage, found in table.items()}
  for stage, stage_votes in votes.items():
    columns[stage] |= {f'votes {k}': value for k, value in stage_votes.by_votes.items()}
    columns[stage] |= {f'budget {k}': value for k, value in stage_votes.by_budget.items()}
  for stage, artifact in artifacts.items():
    if artifact.manifest.kind == 'reward_model':
      held_out = intervals(artifact.manifest.scores.get('after', {}))
      columns[stage] = {f'held-out {score}': value for score, value in held_out.items()}
  return columns


def _page(
    artifacts: Mapping[str, Artifact], stages: Mapping[str, Mapping[str, Any]],
    content: Iterable[Section], table: ScoreTable, *, image: bool,
) -> str:
  """The text of results.md."""
  chain = [{'stage': name, 'kind': artifact.manifest.kind,
            'reads': ', '.join(stages[name]['inputs']) or '-',
            'seed': str(stages[name].get('seed', '-')), 'identity': artifact.manifest.identity}
           for name, artifact in artifacts.items()]
  paragraphs = [
      '# Results of the chain\n',
      'Written by `python -m r1jax.main --config=EXPERIMENT --workdir=FOLDER`, which writes the '
      'same page when it is run again with these configs. `identity` is a hash of the settings and '
      'inputs that decide what a stage computes.\n',
      metrics.format_table(chain, 'The stages'), *_describe_evaluations(stages, table)]
  if image:
    paragraphs.append('![results](results.png)\n')
  for section in content:
    if section.rows:
      if section.text:
        paragraphs.append(f'{section.text}\n')
      paragraphs.append(metrics.format_table(section.rows, section.title))
  return '\n'.join(paragraphs)


def _describe_evaluations(
    stages: Mapping[str, Mapping[str, Any]], table: ScoreTable) -> list[str]:
  """How the evaluations were done, and what their scores mean."""
  descriptions: dict[str, list[str]] = {}
  for stage, config in stages.items():
    for name, settings in (config.get('evaluations') or {stage: config}).items():
      if name in table.get(stage, {}):
        found = descriptions.setdefault(name, [])
        words = _describe_evaluation(settings)
        if words and words not in found:
          found.append(words)
  lines = [f'- {name}: {"; or ".join(found)}' for name, found in descriptions.items() if found]
  known = {score for found in table.values() for values in found.values() for score in values}
  for name, meaning in _MEANINGS.items():
    if name in known or (name.endswith('@') and any(score.startswith(name) for score in known)):
      lines.append(f'- {meaning}')
  return ['The evaluations and their scores:\n', '\n'.join(lines) + '\n'] if lines else []


def _describe_evaluation(settings: Mapping[str, Any]) -> str:
  """An evaluation in words, as far as its settings are given."""
  sampling = settings.get('sampling', {})
  words = []
  if 'problems' in settings:
    words.append(f'{settings["problems"]} problems')
  if 'completions_per_problem' in settings:
    words.append(f'{settings["completions_per_problem"]} completions of each')
  if 'temperature' in sampling:
    words.append(f'temperature {sampling["temperature"]}')
  if 'top_p' in sampling:
    words.append(f'top-p {sampling["top_p"]}')
  if 'max_new_tokens' in sampling:
    words.append(f'at most {sampling["max_new_tokens"]} tokens')
  if 'template' in settings:
    words.append(f'template {settings["template"]}')
  return ', '.join(words)
