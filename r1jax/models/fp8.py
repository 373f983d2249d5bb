"""Weights in 8-bit floats with a scale per block, as DeepSeek-V3 and Qwen3 publish theirs.

Next to a weight [outputs, inputs] of type F8_E4M3 lies `<name>_scale_inv` [ceil(outputs / a),
ceil(inputs / b)], for blocks of a × b (128 × 128); the last blocks may be smaller. The value is

    weight[i, j] * scale_inv[i // a, j // b]

in float32 (arXiv:2412.19437, section 3.3).
"""
import numpy as np

TYPE, SUFFIX = 'F8_E4M3', '_scale_inv'


def scales_shape(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, ...]:
  """The shape of the scales of a weight.

  Args:
    shape: of the weight, [outputs, inputs].
    block: rows and columns of a block.
  """
  return tuple(-(-size // step) for size, step in zip(shape, block))


def dequantise(values: np.ndarray, scales: np.ndarray, block: tuple[int, int], *,
               first_row: int, first_column: int) -> np.ndarray:
  """Float32 values of a region of a weight.

  Args:
    values: [rows, columns] of type float8_e4m3fn.
    scales: of all blocks from that of (first_row, first_column) on.
    block: rows and columns of a block.
    first_row: the row of the weight where `values` begins.
    first_column: the column of the weight where `values` begins.
  """
  result = values.astype(np.float32)
  spread = [(first % step + np.arange(size)) // step for first, size, step in zip(
      (first_row, first_column), values.shape, block)]
  for begin in range(0, len(result), block[0]):   # spreading all scales at once takes memory
    rows = slice(begin, begin + block[0])
    result[rows] *= scales[spread[0][rows]][:, spread[1]].astype(np.float32)
  return result
