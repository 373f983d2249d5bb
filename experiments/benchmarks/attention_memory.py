"""Measures the temporary memory of attention, forward and backward, by blocks and plain.

    python -m r1jax.experiments.benchmarks.attention_memory
    python -m r1jax.experiments.benchmarks.attention_memory --topology=v5e:2x2 --forms blocks

The second command needs libtpu, but no TPU.

One row, bfloat16. `grouped` and `latent` are one layer's attention alone, `model` is the gradient
of two whole layers of width heads · 128. Nothing is run: the figures are the compiler's
(`temp_size_in_bytes`, on a TPU of one chip and without its on-chip memory). Prints one JSON line
per length.
"""
import argparse
import json
import os

FORMS = {
    # key-value heads, queries of each, width of a key, width of a value
    'grouped': (2, 4, 128, 128),
    'latent': (8, 1, 192, 128),
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--topology', default='', help='of a TPU slice; empty: this machine')
  parser.add_argument('--lengths', type=int, nargs='+', default=[8192, 16_384, 32_768])
  parser.add_argument('--forms', nargs='+', default=['blocks', 'plain'])
  arguments = parser.parse_args()
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  if arguments.topology:
    os.environ.update(TPU_SKIP_MDS_QUERY='1', TPU_WORKER_HOSTNAMES='localhost',
                      TPU_ACCELERATOR_TYPE='v5litepod-4')

  import jax
  from jax.experimental import topologies
  device = (topologies.get_topology_desc(
      platform='tpu', topology_name=arguments.topology).devices if arguments.topology
            else jax.devices())[0]
  for length in arguments.lengths:
    figures = {f'{name}_{form}_mb': of_attention(device, name, length, form == 'plain')
               for name in FORMS for form in arguments.forms}
    figures |= {f'model_{form}_mb': of_model(device, length, form == 'plain')
                for form in arguments.forms}
    print(json.dumps(dict(device=device.device_kind, length=length) | figures), flush=True)


def of_attention(device, name, length, plain):
  """Megabytes for the gradient of one layer's attention."""
  import jax
  import jax.numpy as jnp

  from r1jax.kernels.attention_ids import AttentionIds
  from r1jax.models import attention
  k, r, d, e = FORMS[name]
  shapes = [shape_on(device, (1, length, *rest), 'bfloat16')
            for rest in ((k, r, d), (k, d), (k, e))]

  def loss(arrays, ids):
    if plain:
      mask = (ids[:, :, None] == ids[:, None]) & jnp.tri(length, dtype=bool)
      out = attention.attend(*arrays, mask)
    else:
      order = jnp.arange(length, dtype=jnp.int32)[None]
      out = attention.attend_long(*arrays, AttentionIds(ids, None, order))
    return jnp.sum(jnp.square(out.astype(jnp.float32)))
  return megabytes(jax.grad(loss), shapes, shape_on(device, (1, length), 'int32'))


def of_model(device, length, plain):
  """Megabytes for the gradient of two whole layers."""
  import jax
  import jax.numpy as jnp

  from r1jax import models
  from r1jax.models import attention
  k, r, d, _ = FORMS['grouped']
  config = models.ModelConfig(
      family='qwen3', vocab_size=256, width=k * r * d, num_layers=2, num_heads=k * r,
      num_kv_heads=k, head_dim=d, mlp_width=3 * k * r * d, qk_norm=True)
  model = models.build(config, compute_dtype='bfloat16', remat=True)

  def loss(params, tokens, ids):
    positions = jnp.arange(length, dtype=jnp.int32)[None]
    hidden, _, _ = model.apply(params, tokens, positions=positions, segment_ids=ids)
    return jnp.mean(jnp.square(hidden.astype(jnp.float32)))
  params = jax.tree.map(lambda x: shape_on(device, x.shape, x.dtype),
                        jax.eval_shape(model.init, jax.random.key(0)))
  ids = shape_on(device, (1, length), 'int32')
  default = attention.LONG
  attention.LONG = 1 << 30 if plain else default
  try:
    return megabytes(jax.grad(loss), params, ids, ids)
  finally:
    attention.LONG = default


def shape_on(device, shape, dtype):
  """A shape that stands for an array on a device."""
  import jax
  return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.sharding.SingleDeviceSharding(device))


def megabytes(function, *shapes):
  """The temporary memory of a compiled function, or that it does not fit."""
  import jax
  try:
    compiled = jax.jit(function).lower(*shapes).compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return 'does not fit'
  return compiled.memory_analysis().temp_size_in_bytes >> 20


if __name__ == '__main__':
  main()
