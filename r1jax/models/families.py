"""Checkpoint families: what each calls a tensor, and where that tensor lies in the parameters.

A checkpoint keeps every projection by itself as [outputs, inputs]; the parameters are fused, begin
with the inputs and are stacked over layers. `PARTS` gives for each tensor the view of our array
that has the tensor's axes in the tensor's order, so one table serves both ways: an import writes
through the view, an export reads through it. Beside it stands one table of names per family.
"""
from collections.abc import Callable, Iterable
import functools
from typing import NamedTuple

import jax
import numpy as np

from r1jax import sharding
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import build


class Part(NamedTuple):
  """A kind of tensor: its place in the parameters and its shape in a checkpoint."""
  path: tuple[str, ...]
  shape: Callable[[ModelConfig], tuple[int, ...]]
  view: Callable[[np.ndarray], np.ndarray] = lambda array: array   # of one layer's array


def _block(*names: str) -> tuple[str, ...]:
  return ('stacks', 'stack_0', *names)


def _vocab(c):
  return (c.vocab_size, c.width)


def _width(c):
  return (c.width,)


def _head(c):
  return (c.head_dim,)


def _keys(c):
  return (c.num_kv_heads * c.head_dim, c.width)


def _gate(c):
  return (c.mlp_width, c.width)


_QKV, _QKV_BIAS = _block('attention', 'qkv'), _block('attention', 'qkv_bias')
_GATE_UP = _block('mlp', 'gate_up')

PARTS = {
    'embedding': Part(('embedding',), _vocab),
    'unembedding': Part(('unembedding',), _vocab),
    'final_norm': Part(('final_norm', 'scale'), _width),
    'attention_norm': Part(_block('attention_norm', 'scale'), _width),
    'mlp_norm': Part(_block('mlp_norm', 'scale'), _width),
    'query_norm': Part(_block('attention', 'query_norm', 'scale'), _head),
    'key_norm': Part(_block('attention', 'key_norm', 'scale'), _head),
    'query': Part(_QKV, lambda c: (c.num_heads * c.head_dim, c.width),
                  lambda qkv: np.moveaxis(qkv[:, :, :-2], 0, -1)),
    'key': Part(_QKV, _keys, lambda qkv: np.moveaxis(qkv[:, :, -2], 0, -1)),
    'value': Part(_QKV, _keys, lambda qkv: np.moveaxis(qkv[:, :, -1], 0, -1)),
    'query_bias': Part(_QKV_BIAS, lambda c: (c.num_heads * c.head_dim,), lambda bias: bias[:, :-2]),
    'key_bias': Part(_QKV_BIAS, lambda c: _keys(c)[:1], lambda bias: bias[:, -2]),
    'value_bias': Part(_QKV_BIAS, lambda c: _keys(c)[:1], lambda bias: bias[:, -1]),
    'out': Part(_block('attention', 'out'), lambda c: (c.width, c.num_heads * c.head_dim),
                lambda out: np.moveaxis(out, -1, 0)),
    'gate': Part(_GATE_UP, _gate, lambda gate_up: gate_up[:, 0].T),
    'up': Part(_GATE_UP, _gate, lambda gate_up: gate_up[:, 1].T),
    'down': Part(_block('mlp', 'down'), lambda c: (c.width, c.mlp_width), lambda down: down.T),
}

_LLAMA = {
    'embedding': 'model.embed_tokens.weight',
    'attention_norm': 'model.layers.{}.input_layernorm.weight',
    'query': 'model.layers.{}.self_attn.q_proj.weight',
    'key': 'model.layers.{}.self_attn.k_proj.weight',
    'value': 'model.layers.{}.self_attn.v_proj.weight',
    'out': 'model.layers.{}.self_attn.o_proj.weight',
    'mlp_norm': 'model.layers.{}.post_attention_layernorm.weight',
    'gate': 'model.layers.{}.mlp.gate_proj.weight',
    'up': 'model.layers.{}.mlp.up_proj.weight',
    'down': 'model.layers.{}.mlp.down_proj.weight',
    'final_norm': 'model.norm.weight',
    'unembedding': 'lm_head.weight',
}

# Family -> part -> name in a Hugging Face checkpoint, with the layer's number for {}.
FAMILIES = {
    'llama': _LLAMA,
    'qwen2': _LLAMA | {
        'query_bias': 'model.layers.{}.self_attn.q_proj.bias',
        'key_bias': 'model.layers.{}.self_attn.k_proj.bias',
        'value_bias': 'model.layers.{}.self_attn.v_proj.bias',
    },
    'qwen3': _LLAMA | {
        'query_norm': 'model.layers.{}.self_attn.q_norm.weight',
        'key_norm': 'model.layers.{}.self_attn.k_norm.weight',
    },
}

# The same for a GGUF file of the llama architecture.
GGUF = {
    'embedding': 'token_embd.weight',
    'attention_norm': 'blk.{}.attn_norm.weight',
    'query': 'blk.{}.attn_q.weight',
    'key': 'blk.{}.attn_k.weight',
    'value': 'blk.{}.attn_v.weight',
    'out': 'blk.{}.attn_output.weight',
    'mlp_norm': 'blk.{}.ffn_norm.weight',
    'gate': 'blk.{}.ffn_gate.weight',
    'up': 'blk.{}.ffn_up.weight',
    'down': 'blk.{}.ffn_down.weight',
    'final_norm': 'output_norm.weight',
    'unembedding': 'output.weight',
}


class Tensor(NamedTuple):
  """One tensor of a checkpoint."""
  part: str
  layer: int | None
  shape: tuple[int, ...]

  def within(self, array: np.ndarray) -> np.ndarray:
    """The view of the array at this part's path that holds this tensor, its axes unmerged."""
    return PARTS[self.part].view(array if self.layer is None else array[self.layer])


def tensors(config: ModelConfig, names: dict[str, str]) -> dict[str, Tensor]:
  """Name -> tensor of a checkpoint of this shape; `names` is a family's table.

  Raises ValueError where the family has no name for one of the parameters, or the other way round.
  """
  result = {}
  for part, name in names.items():
    if part == 'unembedding' and config.tied_embedding:
      continue
    layers = range(config.num_layers) if 'stacks' in PARTS[part].path else (None,)
    for layer in layers:
      result[name.format(layer)] = Tensor(part, layer, PARTS[part].shape(config))
  named = {PARTS[tensor.part].path for tensor in result.values()}
  paths = {_names(path) for path, _ in jax.tree_util.tree_leaves_with_path(_abstract(config)[0])}
  if named != paths:
    odd = '.'.join(min(named ^ paths))
    raise ValueError(
        f'Checkpoints of family={config.family!r} do not go with qkv_bias={config.qkv_bias}, '
        f'qk_norm={config.qk_norm} ({odd} is in only one of them): qkv_bias belongs to '
        '\'qwen2\', qk_norm to \'qwen3\', and \'llama\' has neither.')
  return result


def check(source: str, expected: dict[str, Tensor], found: dict[str, tuple[int, ...]]) -> None:
  """Raises ValueError naming the tensors that are missing, unexpected or ill-shaped.

  Args:
    source: where the checkpoint lies, for the message.
    expected: what `tensors` says.
    found: the shape of each tensor that is there.
  """
  def some(names):
    names = list(names)
    return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')

  missing = some(name for name in expected if name not in found)
  unexpected = some(name for name in found if name not in expected)
  ill_shaped = some(
      f'{name} {list(found[name])}, not {list(tensor.shape)}'
      for name, tensor in expected.items() if name in found and found[name] != tensor.shape)
  faults = [f'{what} {which}' for what, which in (
      ('missing:', missing), ('unexpected:', unexpected), ('ill-shaped:', ill_shaped)) if which]
  if faults:
    raise ValueError(f'The tensors of {source} do not fit its configuration ({"; ".join(faults)}): '
                     'fetch weights and configuration of one checkpoint again.')


def assemble(
    config: ModelConfig, expected: dict[str, Tensor], read: Callable[[str], np.ndarray], *,
    mesh: jax.sharding.Mesh | None = None) -> dict:
  """Float32 parameters, filled one tensor at a time: at no time more than them and one tensor.

  Args:
    config: the model's shape.
    expected: what `tensors` says.
    read: gives the tensor of a name, in the checkpoint's shape and any float type.
    mesh: where to put each array as soon as it is filled; None: on the default device.
  """
  by_path: dict[tuple[str, ...], list[str]] = {}
  for name, tensor in expected.items():
    by_path.setdefault(PARTS[tensor.part].path, []).append(name)

  def fill(path, shape, placement):
    array = np.empty(shape.shape, np.float32)
    for name in by_path[_names(path)]:
      view = expected[name].within(array)
      view[...] = read(name).reshape(view.shape)
    return jax.device_put(array, placement)

  shapes, logical_axes = _abstract(config)
  if mesh is None:
    return jax.tree_util.tree_map_with_path(functools.partial(fill, placement=None), shapes)
  placements = sharding.shardings(mesh, logical_axes, shapes)
  return jax.tree_util.tree_map_with_path(fill, shapes, placements)


def extract(params, tensor: Tensor) -> np.ndarray:
  """One tensor in the checkpoint's shape, out of parameters that are NumPy arrays."""
  array = params
  for name in PARTS[tensor.part].path:
    array = array[name]
  return tensor.within(array).reshape(tensor.shape)


def check_shapes(config: ModelConfig, params) -> None:
  """Raises ValueError where `params` is not a parameter tree of this shape."""
  def described(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {'.'.join(_names(path)): leaf.shape for path, leaf in leaves}

  expected, found = described(_abstract(config)[0]), described(params)
  for name in expected | found:
    if expected.get(name) != found.get(name):
      raise ValueError(
          f'The parameter {name} has the shape {found.get(name)} where the configuration wants '
          f'{expected.get(name)}: give the configuration that the parameters were made with.')


@functools.cache
def _abstract(config: ModelConfig):
  model = build(config)
  return jax.eval_shape(model.init, jax.random.key(0)), model.logical_axes


def _names(path: Iterable) -> tuple[str, ...]:
  return tuple(entry.key for entry in path)
