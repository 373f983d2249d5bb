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


def test_a_cache_has_as_many_rows_as_slots():
  def cache(**more):
    config = zero(sampling=zero()['stages']['zero']['sampling'] | dict(max_new_tokens=64, **more))
    shape = rough_memory.stage_shape(config, 'zero')
    a_row = 64 * 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * 4
    return rough_memory.cache_bytes(config['stages']['zero'], config['mesh'], shape) / a_row
  rows = rough_memory.most_rows(zero()['stages']['zero'])
  assert rows == 16
  weights = cache() - rows
  assert cache(slots=100) == cache()
  assert cache(slots=4) == pytest.approx(4 + weights)
