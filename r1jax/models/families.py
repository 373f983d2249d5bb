"""Checkpoint families: what each calls a tensor, and where that tensor lies in the parameters.

A checkpoint keeps every projection by itself as [outputs, inputs]; the parameters are fused, begin
with the inputs and are stacked over layers. `PARTS` says for each tensor which part of our array it
is and how the axes turn, so one table serves both ways: `streaming` imports and exports by it.
Beside it stands one table of names per family.
"""
from collections.abc import Callable, Iterable
import functools
from typing import NamedTuple

import jax

from r1jax.models.config import ModelConfig
from r1jax.models.transformer import build


class Part(NamedTuple):
  """A kind of tensor: its place in the parameters and its shape in a checkpoint.

  `path` is in the whole tree, or with `layered` in that of one layer, and with `per_expert` the
  tensor belongs to one expert, whose number is the array's first axis.
  """
  path: tuple[str, ...]
  shape: Callable[[ModelConfig], tuple[int, ...] | None]   # None: such a model has none
  select: tuple[slice | int, ...] = ()   # the part of one layer's (expert's) array
  turn: int = 0   # its axes: 1 puts the first one last, -1 the last one first, 0 leaves them
  layered: bool = True
  per_expert: bool = False


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


def _shared(c):
  return (c.experts.shared * c.experts.width, c.width)


_ALL, _INPUTS_LAST, _OUTPUTS_FIRST = slice(None), 1, -1
_QKV, _QKV_BIAS = ('attention', 'qkv'), ('attention', 'qkv_bias')
_GATE_UP, _SHARED = ('mlp', 'gate_up'), ('mlp', 'shared')
_PREDICTION = ('prediction',)

PARTS = {
    'embedding': Part(('embedding',), _vocab, layered=False),
    'unembedding': Part(('unembedding',), _vocab, layered=False),
    'final_norm': Part(('final_norm', 'scale'), _width, layered=False),
    'attention_norm': Part(('attention_norm', 'scale'), _width),
    'attention_post_norm': Part(('attention_post_norm', 'scale'), _width),
    'mlp_norm': Part(('mlp_norm', 'scale'), _width),
    'mlp_post_norm': Part(('mlp_post_norm', 'scale'), _width),
    'query_norm': Part(('attention', 'query_norm', 'scale'), _head),
    'key_norm': Part(('attention', 'key_norm', 'scale'), _head),
    'query': Part(_QKV, lambda c: (c.num_heads * c.head_dim, c.width),
                  (_ALL, _ALL, slice(-2)), _INPUTS_LAST),
    'key': Part(_QKV, _keys, (_ALL, _ALL, -2), _INPUTS_LAST),
    'value': Part(_QKV, _keys, (_ALL, _ALL, -1), _INPUTS_LAST),
    'query_bias': Part(_QKV_BIAS, lambda c: (c.num_heads * c.head_dim,), (_ALL, slice(-2))),
    'key_bias': Part(_QKV_BIAS, lambda c: _keys(c)[:1], (_ALL, -2)),
    'value_bias': Part(_QKV_BIAS, lambda c: _keys(c)[:1], (_ALL, -1)),
    'out': Part(('attention', 'out'), lambda c: (
        c.width, c.num_heads * (c.latent.value_dim if c.latent else c.head_dim)),
                turn=_OUTPUTS_FIRST),
    'gate': Part(_GATE_UP, _gate, (_ALL, 0), _INPUTS_LAST),
    'up': Part(_GATE_UP, _gate, (_ALL, 1), _INPUTS_LAST),
    'down': Part(('mlp', 'down'), lambda c: (c.width, c.mlp_width), turn=_INPUTS_LAST),
    # A mixture of experts.
    'router': Part(('mlp', 'router'), lambda c: (c.experts.count, c.width), turn=_INPUTS_LAST),
    'balancing_bias': Part(('mlp', 'balancing_bias'), lambda c: (c.experts.count,)),
    'expert_gate': Part(('mlp', 'experts_gate_up'), lambda c: (c.experts.width, c.width),
                        (_ALL, 0), _INPUTS_LAST, per_expert=True),
    'expert_up': Part(('mlp', 'experts_gate_up'), lambda c: (c.experts.width, c.width),
                      (_ALL, 1), _INPUTS_LAST, per_expert=True),
    'expert_down': Part(('mlp', 'experts_down'), lambda c: (c.width, c.experts.width),
                        turn=_INPUTS_LAST, per_expert=True),
    'shared_gate': Part((*_SHARED, 'gate_up'), _shared, (_ALL, 0), _INPUTS_LAST),
    'shared_up': Part((*_SHARED, 'gate_up'), _shared, (_ALL, 1), _INPUTS_LAST),
    'shared_down': Part((*_SHARED, 'down'), lambda c: _shared(c)[::-1], turn=_INPUTS_LAST),
    # Latent attention.
    'query_latent': Part(('attention', 'query_compress'),
                         lambda c: (c.latent.query_rank, c.width), turn=_INPUTS_LAST),
    'latent': Part(('attention', 'compress'),
                   lambda c: (c.latent.rank + c.latent.rope_dim, c.width), turn=_INPUTS_LAST),
    'query_latent_norm': Part(('attention', 'query_norm', 'scale'),
                              lambda c: (c.latent.query_rank,)),
    'latent_norm': Part(('attention', 'latent_norm', 'scale'), lambda c: (c.latent.rank,)),
    'latent_query': Part(('attention', 'query'), lambda c: c.latent.query_rank and (
        c.num_heads * c.head_dim, c.latent.query_rank), turn=_INPUTS_LAST),
    'direct_query': Part(('attention', 'query'), lambda c: None if c.latent.query_rank else (
        c.num_heads * c.head_dim, c.width), turn=_INPUTS_LAST),
    'latent_key_value': Part(('attention', 'key_value'), lambda c: (
        c.num_heads * (c.head_dim - c.latent.rope_dim + c.latent.value_dim), c.latent.rank),
                             turn=_INPUTS_LAST),
    # The prediction head; its layer has the parts of any other.
    'prediction_embedding_norm': Part((*_PREDICTION, 'embedding_norm', 'scale'), _width,
                                      layered=False),
    'prediction_hidden_norm': Part((*_PREDICTION, 'hidden_norm', 'scale'), _width, layered=False),
    'prediction_projection': Part(
        (*_PREDICTION, 'projection'), lambda c: (c.width, 2 * c.width),
        turn=_OUTPUTS_FIRST, layered=False),
    'prediction_norm': Part((*_PREDICTION, 'final_norm', 'scale'), _width, layered=False),
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

_QWEN3 = _LLAMA | {
    'query_norm': 'model.layers.{}.self_attn.q_norm.weight',
    'key_norm': 'model.layers.{}.self_attn.k_norm.weight',
}

_EXPERTS = {
    'router': 'model.layers.{}.mlp.gate.weight',
    'expert_gate': 'model.layers.{}.mlp.experts.{}.gate_proj.weight',
    'expert_up': 'model.layers.{}.mlp.experts.{}.up_proj.weight',
    'expert_down': 'model.layers.{}.mlp.experts.{}.down_proj.weight',
}

# The last layer is the prediction head's; the names of its parts follow those of all layers.
_DEEPSEEK_V3 = {
    'embedding': 'model.embed_tokens.weight',
    'attention_norm': 'model.layers.{}.input_layernorm.weight',
    'query_latent': 'model.layers.{}.self_attn.q_a_proj.weight',
    'query_latent_norm': 'model.layers.{}.self_attn.q_a_layernorm.weight',
    'latent_query': 'model.layers.{}.self_attn.q_b_proj.weight',
    'direct_query': 'model.layers.{}.self_attn.q_proj.weight',
    'latent': 'model.layers.{}.self_attn.kv_a_proj_with_mqa.weight',
    'latent_norm': 'model.layers.{}.self_attn.kv_a_layernorm.weight',
    'latent_key_value': 'model.layers.{}.self_attn.kv_b_proj.weight',
    'out': 'model.layers.{}.self_attn.o_proj.weight',
    'mlp_norm': 'model.layers.{}.post_attention_layernorm.weight',
    'gate': 'model.layers.{}.mlp.gate_proj.weight',
    'up': 'model.layers.{}.mlp.up_proj.weight',
    'down': 'model.layers.{}.mlp.down_proj.weight',
    **_EXPERTS,
    'balancing_bias': 'model.layers.{}.mlp.gate.e_score_correction_bias',
    'shared_gate': 'model.layers.{}.mlp.shared_experts.gate_proj.weight',
    'shared_up': 'model.layers.{}.mlp.shared_experts.up_proj.weight',
    'shared_down': 'model.layers.{}.mlp.shared_experts.down_proj.weight',
    'prediction_embedding_norm': 'model.layers.{}.enorm.weight',
    'prediction_hidden_norm': 'model.layers.{}.hnorm.weight',
    'prediction_projection': 'model.layers.{}.eh_proj.weight',
    'prediction_norm': 'model.layers.{}.shared_head.norm.weight',
    'final_norm': 'model.norm.weight',
    'unembedding': 'lm_head.weight',
}

# Family -> part -> name in a Hugging Face checkpoint, with the layer's number for {}, and the
# expert's for a second one.
FAMILIES = {
    'llama': _LLAMA,
    'qwen2': _LLAMA | {
        'query_bias': 'model.layers.{}.self_attn.q_proj.bias',
        'key_bias': 'model.layers.{}.self_attn.k_proj.bias',
        'value_bias': 'model.layers.{}.self_attn.v_proj.bias',
    },
    'qwen3': _QWEN3,
    'qwen3_moe': _QWEN3 | _EXPERTS,
    'gemma3_text': _QWEN3 | {
        'attention_post_norm': 'model.layers.{}.post_attention_layernorm.weight',
        'mlp_norm': 'model.layers.{}.pre_feedforward_layernorm.weight',
        'mlp_post_norm': 'model.layers.{}.post_feedforward_layernorm.weight',
    },
    'deepseek_v3': _DEEPSEEK_V3,
}

# Parts of a family that a model need not have.
_OPTIONAL = {'unembedding', 'gate', 'up', 'down', 'query_latent', 'query_latent_norm'} | {
    part for part in PARTS
    if part.startswith(('expert_', 'shared_', 'prediction_', 'router', 'latent_', 'direct_'))}

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
  """One tensor of a checkpoint, and where it lies in the array at `path` of the parameters."""
  part: str
  path: tuple[str, ...]
  index: tuple[int, ...]   # of the layer in its stack, of the expert
  shape: tuple[int, ...]

  def box(self, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """(begin, end) of the tensor along each axis of the array, which has this shape."""
    spans = (range(size)[at] for at, size in zip(self._select(len(shape)), shape))
    return tuple((at.start, at.stop) if isinstance(at, range) else (at, at + 1) for at in spans)

  def axes(self, count: int) -> list[int]:
    """Of the array's `count` axes those of the tensor, in its order, not yet merged to rows."""
    kept = [i for i, at in enumerate(self._select(count)) if isinstance(at, slice)]
    turn = PARTS[self.part].turn
    return kept[turn:] + kept[:turn]

  def _select(self, count: int) -> tuple[slice | int, ...]:
    select = (*self.index, *PARTS[self.part].select)
    return select + (_ALL,) * (count - len(select))


def tensors(config: ModelConfig, names: dict[str, str]) -> dict[str, Tensor]:
  """Name -> tensor of a checkpoint of this shape; `names` is a family's table.

  Raises ValueError where the family has no name for one of the parameters, or the other way round.
  """
  paths = {keys(path) for path, _ in jax.tree_util.tree_leaves_with_path(abstract(config)[0])}
  layers, result = _layers(config), {}
  for part, name in names.items():
    place = PARTS[part]
    # What the prediction head has beside its layer bears the number that follows the layers'.
    places = layers if place.layered else [(config.num_layers, (), ())]
    for number, base, index in places:
      path = base + place.path
      if path in paths and (shape := place.shape(config)):
        for expert in range(config.experts.count) if place.per_expert else (None,):
          at = index if expert is None else (*index, expert)
          result[name.format(number, expert)] = Tensor(part, path, at, shape)
  named = {tensor.path for tensor in result.values()}
  absent = {PARTS[part].path for part in names.keys() - {t.part for t in result.values()}
            - _OPTIONAL - ({'balancing_bias'} if config.experts is None else set())}
  if odd := (paths - named) | absent:
    raise ValueError(
        f'Checkpoints of family={config.family!r} do not go with qkv_bias={config.qkv_bias}, '
        f'qk_norm={config.qk_norm}, and the other fields ({".".join(min(odd))} is in only one of '
        'them): qkv_bias belongs to \'qwen2\', qk_norm to \'qwen3\', \'qwen3_moe\' and '
        '\'gemma3_text\', post_norms to \'gemma3_text\', latent attention, sigmoid routing and '
        'prediction_head to \'deepseek_v3\', and \'llama\' has none of them.')
  return result


def aliases(config: ModelConfig, names: dict[str, str]) -> dict[str, str]:
  """Name -> the tensor that it repeats, if it is in a checkpoint at all.

  A tied model may have a head, and DeepSeek-V3's prediction head repeats embedding and head.
  """
  result = {}
  if config.tied_embedding:
    result[names['unembedding']] = names['embedding']
  if config.prediction_head:
    layer = f'model.layers.{config.num_layers}'
    result[f'{layer}.embed_tokens.weight'] = names['embedding']
    result[f'{layer}.shared_head.head.weight'] = (
        names['embedding' if config.tied_embedding else 'unembedding'])
  return result


def ignored(config: ModelConfig, name: str) -> bool:
  """Whether a tensor of this name in a checkpoint is passed over."""
  return name.endswith('rotary_emb.inv_freq') or (
      config.family == 'deepseek_v3' and not config.prediction_head
      and name.startswith(f'model.layers.{config.num_layers}.'))


def _layers(config: ModelConfig) -> list[tuple[int, tuple[str, ...], tuple[int, ...]]]:
  """(number in a checkpoint, path, place in the stack) of every layer, the prediction head's last.
  """
  result, first, stack = [], 0, 0
  for pattern, repeats in config.runs:
    for repeat in range(repeats):
      for at in range(len(pattern)):
        number = first + repeat * len(pattern) + at
        result.append((number, ('stacks', f'stack_{stack + at}'), (repeat,)))
    first, stack = first + repeats * len(pattern), stack + len(pattern)
  if config.prediction_head:
    result.append((config.num_layers, ('prediction', 'block'), ()))
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


def check_shapes(config: ModelConfig, params) -> None:
  """Raises ValueError where `params` is not a parameter tree of this shape."""
  def described(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {'.'.join(keys(path)): leaf.shape for path, leaf in leaves}

  expected, found = described(abstract(config)[0]), described(params)
  for name in expected | found:
    if expected.get(name) != found.get(name):
      raise ValueError(
          f'The parameter {name} has the shape {found.get(name)} where the configuration wants '
          f'{expected.get(name)}: give the configuration that the parameters were made with.')


@functools.cache
def abstract(config: ModelConfig):
  """The parameters of this shape, as (ShapeDtypeStructs, logical axes)."""
  model = build(config)
  return jax.eval_shape(model.init, jax.random.key(0)), model.logical_axes


def keys(path: Iterable) -> tuple[str, ...]:
  """A path of `jax.tree_util` as the keys on it."""
  return tuple(entry.key for entry in path)
