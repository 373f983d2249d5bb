"""What devices can do."""
import time

import jax
import jax.numpy as jnp

# bfloat16 operations a second of one device, by the makers' data sheets.
_PEAK_FLOPS = {'TPU v5 lite': 197e12, 'TPU v5p': 459e12, 'TPU v5': 459e12, 'TPU v6 lite': 918e12,
               'NVIDIA H100 80GB HBM3': 989e12, 'NVIDIA H200': 989e12,
               'NVIDIA A100-SXM4-80GB': 312e12}


def peak_flops() -> float:
  """What all devices together could do in a second; of an unknown kind, what a product reaches."""
  device = jax.devices()[0]
  if device.device_kind in _PEAK_FLOPS:
    return _PEAK_FLOPS[device.device_kind] * jax.device_count()
  square = jnp.ones((1024, 1024))
  product = jax.jit(jnp.matmul)
  product(square, square).block_until_ready()
  start = time.perf_counter()
  for _ in range(3):
    result = product(square, square)
  result.block_until_ready()
  return 3 * 2 * 1024 ** 3 / (time.perf_counter() - start)
