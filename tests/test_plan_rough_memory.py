"""Memory by arithmetic alone."""
from plan_cases import zero
import pytest

from r1jax.plan import rough_memory


def test_a_cache_that_is_larger_than_an_update_is_what_counts():
  stage = zero()['stages']['zero']
  config = zero(prompts_per_batch=64, micro_batches=64, model=stage['model'] | dict(remat=True),
                sampling=stage['sampling'] | dict(max_new_tokens=4096))
  shape = rough_memory.stage_shape(config, 'zero')
  a_token = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * 4
  assert rough_memory.rough_bytes(config, 'zero') > 64 * stage['group_size'] * 4096 * a_token


@pytest.mark.parametrize('chunk, growing', [(64, 0), (32, 1 / 4), (16, 3 / 8)])
def test_a_growing_cache_lies_there_by_halves_twice(chunk, growing):
  """Keys, say: all that are kept, and while the last chunk's place is made the old ones of them."""
  sampling = zero()['stages']['zero']['sampling'] | dict(max_new_tokens=64, chunk=chunk)
  few, many = (zero(prompts_per_batch=prompts, sampling=sampling) for prompts in (4, 8))
  shape = rough_memory.stage_shape(few, 'zero')
  a_row = 64 * 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * 4
  rows = 4 * few['stages']['zero']['group_size']
  grown = [rough_memory.cache_bytes(one['stages']['zero'], one['mesh'], shape)
           for one in (few, many)]
  assert grown[1] - grown[0] == pytest.approx(rows * a_row * (1 + growing))
