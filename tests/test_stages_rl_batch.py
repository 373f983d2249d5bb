"""Which arrays a batch has, by its config."""
import dataclasses

import jax
import pytest
import runs

from r1jax.runtime import sharding
from r1jax.stages.rl import batch as rl_batch

BARE = dict(old_logprobs=False, reference_logprobs=False, values=False, token_advantages=False)
SPECS = {
    'one update': (dict(), BARE),
    'epochs': (dict(epochs=2), BARE | dict(old_logprobs=True)),
    'mini-batches': (dict(mini_batches=2), BARE | dict(old_logprobs=True)),
    'a reference': (dict(kl_coefficient=0.1), BARE | dict(reference_logprobs=True)),
    'by token': (dict(advantage='reinforce_pp'), BARE | dict(token_advantages=True)),
    'a critic': (dict(advantage='gae'), BARE | dict(values=True, token_advantages=True)),
    'all': (dict(advantage='gae', epochs=2, kl_coefficient=0.1), dict.fromkeys(BARE, True))}


@pytest.mark.parametrize('case', SPECS)
def test_a_batch_has_the_arrays_that_its_config_needs(case):
  fields, want = SPECS[case]
  config = runs.rl_config('base', **fields)
  spec = rl_batch.BatchSpec.of(config)
  assert dataclasses.asdict(spec) == want
  assert spec.num_scorings == sum(
      want[name] for name in ('old_logprobs', 'reference_logprobs', 'values'))
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  shapes = rl_batch.batch_shapes(config, mesh, prompts=3, length=5)
  assert shapes.completion_mask.shape == (6, 5) and shapes.prompt_tokens.shape == (3, 32)
  assert shapes.advantages.shape == ((6, 5) if spec.token_advantages else (6,))
  for name, there in (('old_logprobs', spec.old_logprobs), ('old_values', spec.values),
                      ('reference_logprobs', spec.reference_logprobs), ('returns', spec.values)):
    assert (getattr(shapes, name) is not None) == there
  sampled = rl_batch.as_sampled(shapes)
  assert {name for name, value in vars(sampled).items() if value is not None} == {
      *rl_batch.SAMPLED}
