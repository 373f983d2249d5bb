"""Operations are counted against loops over single tokens, and over what the stages really run."""
import json
import types

import numpy as np
import pytest
import runs
from runs import base, compiled, no_curves  # noqa: F401 (fixtures)

from r1jax import checkpoint, metrics
from r1jax.data.packing import pack
from r1jax.models import PRESETS, compute, num_params
from r1jax.stages import rl, sft, supervised
from r1jax.stages.rl import metrics as rl_metrics
from r1jax.stages.rl import programs as rl_programs

SHAPE = runs.SHAPE
PROMPTS = [3, 1, 7]
COMPLETIONS = [[2, 5], [0, 1], [4, 4]]


def one_token(position, shape=SHAPE):
  """The forward pass of the token at `position` (from 0) of what it attends to."""
  scores = 2 * shape.num_heads * shape.head_dim * (position + 1)
  return 2 * num_params(shape) + shape.num_layers * (scores + scores)


def by_token(prompts, completions, shape=SHAPE):
  """(tokens, operations) of a pass over groups, token by token."""
  tokens = operations = 0
  for prompt, group in zip(prompts, completions):
    spans = [(0, prompt)] + [(prompt, prompt + length) for length in group]
    for begin, end in spans:
      for position in range(begin, end):
        tokens += 1
        operations += one_token(position, shape)
  return tokens, operations


def test_a_pass_is_the_sum_of_its_tokens():
  tokens, operations = by_token(PROMPTS, COMPLETIONS)
  assert compute.sampling(SHAPE, PROMPTS, COMPLETIONS) == compute.Compute(
      sampled=operations, sampled_tokens=tokens)
  assert compute.scoring(SHAPE, PROMPTS, np.ravel(COMPLETIONS), passes=2) == compute.Compute(
      scored=2 * operations, scored_tokens=2 * tokens)
  for remat, passes in ((False, 3), (True, 4)):
    assert compute.training(SHAPE, PROMPTS, COMPLETIONS, remat=remat) == compute.Compute(
        trained=passes * operations, trained_tokens=tokens)


def test_groups_that_are_trained_on_more_often_count_more():
  times = [2, 0, 1]
  each = [compute.training(SHAPE, PROMPTS[i:i + 1], COMPLETIONS[i:i + 1], remat=False)
          for i in range(3)]
  assert compute.training(SHAPE, PROMPTS, COMPLETIONS, remat=False, times=times) == (
      each[0] + each[0] + each[2])
  assert compute.training(SHAPE, PROMPTS, COMPLETIONS, remat=False, times=3).trained_tokens == (
      3 * by_token(PROMPTS, COMPLETIONS)[0])


def test_groups_add_up_and_their_order_does_not_count():
  whole = compute.sampling(SHAPE, PROMPTS, COMPLETIONS)
  parts = [compute.sampling(SHAPE, PROMPTS[i:i + 1], COMPLETIONS[i:i + 1]) for i in range(3)]
  assert sum(parts, compute.Compute()) == whole
  assert compute.sampling(SHAPE, PROMPTS[::-1], [row[::-1] for row in COMPLETIONS[::-1]]) == whole


def test_a_shared_prompt_runs_once():
  apart = compute.sampling(SHAPE, [7, 7], [[4], [4]])
  prefill = compute.sampling(SHAPE, [7], [[0]])
  assert apart.sampled == compute.sampling(SHAPE, [7], [[4, 4]]).sampled + prefill.sampled


def test_packed_rows_attend_within_their_documents():
  lengths = [3, 5, 2, 4, 1]
  rows = pack([[1] * length for length in lengths], row_length=8, overlong='error')
  assert rows.segment_ids.max() > 1 and (rows.segment_ids == 0).any()
  tokens, operations = by_token(lengths, [[]] * len(lengths))
  assert compute.training_rows(SHAPE, rows.segment_ids, remat=True) == compute.Compute(
      trained=4 * operations, trained_tokens=tokens)
  none = np.zeros(len(rows.segment_ids), int)
  assert compute.training_rows(SHAPE, rows.segment_ids, remat=True, times=none) == compute.Compute()


def test_records_of_an_evaluation_count_as_their_groups():
  records = [dict(sample=i, num_tokens=length, num_prompt_tokens=prompt)
             for prompt, group in zip(PROMPTS, COMPLETIONS) for i, length in enumerate(group)]
  tokens, operations = by_token(PROMPTS, COMPLETIONS)
  found = compute.evaluating(SHAPE, records)
  assert found == compute.Compute(evaluated=operations, evaluated_tokens=tokens)
  assert found.total == 0
  assert compute.drawing(SHAPE, records) == compute.sampling(SHAPE, PROMPTS, COMPLETIONS)
  assert compute.evaluating(SHAPE, []) == compute.Compute()


def test_a_published_size_costs_6nd():
  shape = PRESETS['qwen3_0_6b']
  found = compute.training(shape, [1], [[1_000]], remat=False)
  attention = 12 * shape.num_layers * shape.num_heads * shape.head_dim * 1001 * 1002 / 2
  assert found.trained == pytest.approx(6 * num_params(shape) * 1001 + attention, rel=1e-12)


def test_lengths_that_do_not_fit_are_refused():
  for prompts, completions in (([3, 1], [1, 2, 3]), ([], []), ([[3]], [1]), ([3], [[1], [2]])):
    with pytest.raises(ValueError, match=r'must be \[B\] and \[B, G\]'):
      compute.sampling(SHAPE, prompts, completions)


def test_it_travels_through_json_and_metrics():
  found = compute.sampling(SHAPE, PROMPTS, COMPLETIONS) + compute.Compute(
      evaluated=2.0, evaluated_tokens=1)
  assert compute.from_dict(json.loads(json.dumps(found.to_dict()))) == found
  assert compute.from_dict({}) == compute.Compute()
  logged = found.to_metrics()
  assert compute.from_metrics([logged, {'reward': 1.0}, logged]) == (
      compute.sampling(SHAPE, PROMPTS * 2, COMPLETIONS * 2))


def test_the_rows_of_a_run_are_those_it_takes():
  config = dict(seed=3, rows=4, epochs=3)
  times = supervised.times_trained(config, 10)
  assert times.sum() == 3 * 2 * 4 and times.max() <= 3
  assert len(set(times.tolist())) > 1     # what does not fill a batch is another row each time
  assert supervised.times_trained(config | dict(last_step=3), 10).sum() == 3 * 4
  assert supervised.times_trained(config | dict(last_step=30), 10).tolist() == times.tolist()


@pytest.mark.slow
def test_an_rl_stage_counts_what_it_ran(base, tmp_path):
  """Against the batches that its programs were given, which stand in for scoring and updates."""
  ran, make_programs = {'score': [], 'update': []}, rl_programs.make_programs

  def note(name, batch):
    lengths = np.asarray(batch.completion_mask).sum(-1).astype(int).reshape(-1, 2)
    ran[name].append(by_token(np.asarray(batch.prompt_lengths), lengths))

  def noting(*arguments):
    def score(params, batch):
      note('score', batch)
      return batch.behaviour_logprobs

    def update(state, batch, normalizers):
      note('update', batch)
      return state, {'skipped_updates': np.zeros(()), 'kl': np.zeros(())}
    return make_programs(*arguments)._replace(score=score, update=update)
  config = runs.rl_config(base, steps=8, epochs=2, mini_batches=2, kl_coefficient=0.1,
                          checkpoint_every=9, evaluations={'trained': runs.evaluation_config()})
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(rl_programs, 'make_programs', noting)
    artifact = rl.run(config, {}, tmp_path, reward_functions={'bytes': (runs.by_bytes, 1.0)})
  assert len(ran['score']) == 2 * 2 and len(ran['update']) == 2 * 4
  (scored_tokens, scored), (trained_tokens, trained) = (
      map(sum, zip(*batches)) for batches in ran.values())
  records = [json.loads(line) for line in (
      tmp_path / 'evaluations' / 'trained.jsonl').read_text().splitlines()]
  evaluated = compute.evaluating(SHAPE, records)
  assert len(records) == 4 and evaluated.evaluated_tokens > 0
  found = compute.from_dict(artifact.manifest.compute)
  assert found == compute.Compute(    # the completions are scored twice
      sampled=scored / 2, scored=scored, trained=3 * trained, sampled_tokens=scored_tokens // 2,
      scored_tokens=scored_tokens, trained_tokens=trained_tokens) + evaluated
  assert compute.from_metrics(metrics.read_metrics(tmp_path)).total == found.total
  assert checkpoint.read_manifest(tmp_path).compute == found.to_dict()


def test_surplus_groups_are_drawn_and_judged_and_a_critic_is_scored_and_trained_too():
  judged = compute.Compute(scored=5.0, scored_tokens=3)
  drawn = [types.SimpleNamespace(
      prompts=types.SimpleNamespace(prompt_lengths=np.asarray(PROMPTS[i:i + 1])),
      completions=[types.SimpleNamespace(num_tokens=length) for length in COMPLETIONS[i]],
      judging=judged)
      for i in range(3)]
  config = runs.rl_config('base', group_size=2, epochs=2, model=dict(remat=True),
                          advantage='gae')
  groups = np.asarray([0, 2])
  kept = [PROMPTS[0], PROMPTS[2]], [COMPLETIONS[0], COMPLETIONS[2]]
  assert rl_metrics.computed(drawn, groups, SHAPE, config) == (
      compute.sampling(SHAPE, PROMPTS, COMPLETIONS) + compute.scoring(SHAPE, *kept, passes=2)
      + compute.training(SHAPE, *kept, remat=True, times=4) + judged + judged + judged)


def test_a_fine_tuning_counts_the_rows_it_trained_on(base, tmp_path):
  """Against the batches that its updates were given."""
  (tmp_path / 'own.jsonl').write_text(''.join(json.dumps(dict(
      prompt=f'{n}?', reasoning='so ' * (1 + n % 5), summary='yes')) + '\n' for n in range(30)))
  config = runs.sft_config(base, inputs=(), sample_stages=(), files=[str(tmp_path / 'own.jsonl')],
                           rows=4, epochs=2, row_length=32)
  seen, place = [], supervised.sharding.place
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(supervised.sharding, 'place', lambda tree, *args, **more: (
        isinstance(tree, tuple) and seen.append(tree[1]), place(tree, *args, **more))[1])
    artifact = sft.run(config, {}, tmp_path / 'run')
  documents = [int((row == segment).sum()) for batch in seen for row in batch
               for segment in range(1, row.max() + 1)]
  tokens, operations = by_token(documents, [[]] * len(documents))
  assert len(seen) > 2
  assert artifact.manifest.compute == compute.Compute(
      trained=3 * operations, trained_tokens=tokens).to_dict()
