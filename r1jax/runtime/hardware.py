"""What chips can do: one table of data sheets, for utilisation (RL metrics) and for `r1jax.plan`.

jax is imported only where it is used: a plan reads this table before it sets jax's environment.
"""
from collections.abc import Mapping
import dataclasses

GIB = 2 ** 30


@dataclasses.dataclass(frozen=True)
class Chip:
  """The data sheet of one chip.

  Attributes:
    name: its short name, as in a topology ('v5e').
    peaks: floating-point operations per second by the dtype of a product's operands. 'float32' is
      what JAX's default matmul precision makes of it: bfloat16 passes on a TPU, TF32 on a GPU.
    memory: bytes that a program may use.
    bandwidth: bytes per second between memory and chip.
    network: bytes per second that leave the chip over all its links; 0: not modelled, a plan then
      counts communication as free.
    dims: dimensions of the torus that the links form.
    ring_multiple: a dimension of a slice whose size is a multiple of this is closed to a ring.
  """
  name: str
  peaks: Mapping[str, float]
  memory: float
  bandwidth: float
  network: float = 0.0
  dims: int = 2
  ring_multiple: int = 1

  @property
  def flops(self) -> float:
    """Peak operations per second on bfloat16."""
    return self.peaks['bfloat16']


def _tpu_peaks(flops: float) -> dict[str, float]:
  return {'bfloat16': flops, 'float32': flops}


# cloud.google.com/tpu/docs/{v5e,v6e,v5p}; memory is what the compiler leaves for a program.
_V5E = Chip('v5e', _tpu_peaks(197e12), 15.75 * GIB, 819e9, 1600e9 / 8, 2, 16)
_V6E = Chip('v6e', _tpu_peaks(918e12), 31.25 * GIB, 1640e9, 3584e9 / 8, 2, 16)
_V5P = Chip('v5p', _tpu_peaks(459e12), 95.74 * GIB, 2765e9, 4800e9 / 8, 3, 4)
# NVIDIA's data sheets, dense (without sparsity).
_A100 = Chip('a100', {'bfloat16': 312e12, 'float32': 156e12}, 80e9, 2039e9)
_H100 = Chip('h100', {'bfloat16': 989e12, 'float32': 494e12}, 80e9, 3350e9)
_H200 = Chip('h200', {'bfloat16': 989e12, 'float32': 494e12}, 141e9, 4800e9)

TPUS = {chip.name: chip for chip in (_V5E, _V6E, _V5P)}

# By `jax.Device.device_kind`.
DEVICE_KINDS = {
    'TPU v5 lite': _V5E, 'TPU v6 lite': _V6E, 'TPU v5p': _V5P, 'TPU v5': _V5P,
    'NVIDIA A100-SXM4-80GB': _A100, 'NVIDIA H100 80GB HBM3': _H100, 'NVIDIA H200': _H200,
}


def peak_flops(dtype: str) -> float | None:
  """Floating-point operations per second of all devices together; None for an unknown kind.

  Args:
    dtype: of a product's operands, 'bfloat16' or 'float32'.
  """
  import jax
  chip = DEVICE_KINDS.get(jax.devices()[0].device_kind)
  return None if chip is None else chip.peaks[dtype] * jax.device_count()


def no_peak_message() -> str:
  """What a run says where `peak_flops` gives None."""
  import jax
  kind = jax.devices()[0].device_kind
  return f'no peak is known for device kind {kind!r}: utilisation is not reported'
