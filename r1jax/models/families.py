"""Checkpoint families: what each calls a tensor, and where that tensor lies in the parameters.

A checkpoint keeps every projection by itself as [outputs, inputs]; the parameters are fused, begin
with the inputs and are stacked over layers. Each tensor has a role ('query', 'expert_up', ...).
`LAYOUTS` says for each role which region of which of our arrays the tensor is, and how its axes are
ordered, so that `streaming` both imports and exports by it. Next to it is one table per family,
from role to name.
"""
from collections.abc import Callable, Iterable
import functools
import re
from typing import NamedTuple

import jax

from r1jax.errors import UserError
from r1jax.models.config import Experts, Latent, ModelConfig
from r1jax.models.transformer import build


class Layout(NamedTuple):
  """The place of a role's tensors in the parameters, and their shape in a checkpoint.

  `path` leads from the root of the parameters, or with `layered` from a layer. With `per_expert`,
  the tensor belongs to one expert, whose number is the array's first axis.
  """
  path: tuple[str, ...]
  shape: Callable[[ModelConfig], tuple[int, ...] | None]   # None: such a model has none
  select: tuple[slice | int, ...] = ()   # the region in one layer's (one expert's) array
  transpose: int = 0   # 1 puts the first axis last in the checkpoint, -1 the last axis first
  layered: bool = True
  per_expert: bool = False


def _vocab(c):
  return c.vocab_size, c.width


def _width(c):
  return (c.width,)


def _head(c):
  return (c.head_dim,)


def _keys(c):
  return c.num_kv_heads * c.head_dim, c.width


def _gate(c):
  return c.mlp_width, c.width


def _shared(c):
  return c.experts.shared * c.experts.width, c.width


def _experts(c: ModelConfig) -> Experts:
  assert c.experts is not None
  return c.experts


def _latent(c: ModelConfig) -> Latent:
  assert c.latent is not None
  return c.latent


def _expert_up(c):
  return _experts(c).width, c.width


def _out(c):
  return c.width, c.num_heads * (c.latent.value_dim if c.latent else c.head_dim)


def _latent_query(c):
  rank = _latent(c).query_rank
  return None if rank is None else (c.num_heads * c.head_dim, rank)


def _direct_query(c):
  return None if _latent(c).query_rank else (c.num_heads * c.head_dim, c.width)


def _query_latent(c):
  rank = _latent(c).query_rank
  return None if rank is None else (rank, c.width)


def _query_latent_norm(c):
  rank = _latent(c).query_rank
  return None if rank is None else (rank,)


def _latent_key_value(c):
  latent = _latent(c)
  return c.num_heads * (c.head_dim - latent.rope_dim + latent.value_dim), latent.rank


_ALL, _INPUTS_LAST, _OUTPUTS_FIRST = slice(None), 1, -1
_QKV, _QKV_BIAS = ('attention', 'qkv'), ('attention', 'qkv_bias')
_GATE_UP, _SHARED = ('mlp', 'gate_up'), ('mlp', 'shared')
_PREDICTION = ('prediction',)

# Role -> where its tensors are.
LAYOUTS = {
    'embedding': Layout(('embedding',), _vocab, layered=False),
    'unembedding': Layout(('unembedding',), _vocab, layered=False),
    'final_norm': Layout(('final_norm', 'scale'), _width, layered=False),
    'attention_norm': Layout(('attention_norm', 'scale'), _width),
    'attention_post_norm': Layout(('attention_post_norm', 'scale'), _width),
    'mlp_norm': Layout(('mlp_norm', 'scale'), _width),
    'mlp_post_norm': Layout(('mlp_post_norm', 'scale'), _width),
    'query_norm': Layout(('attention', 'query_norm', 'scale'), _head),
    'key_norm': Layout(('attention', 'key_norm', 'scale'), _head),
    'query': Layout(_QKV, lambda c: (c.num_heads * c.head_dim, c.width),
                    (_ALL, _ALL, slice(-2)), _INPUTS_LAST),
    'key': Layout(_QKV, _keys, (_ALL, _ALL, -2), _INPUTS_LAST),
    'value': Layout(_QKV, _keys, (_ALL, _ALL, -1), _INPUTS_LAST),
    'query_bias': Layout(_QKV_BIAS, lambda c: (c.num_heads * c.head_dim,), (_ALL, slice(-2))),
    'key_bias': Layout(_QKV_BIAS, lambda c: _keys(c)[:1], (_ALL, -2)),
    'value_bias': Layout(_QKV_BIAS, lambda c: _keys(c)[:1], (_ALL, -1)),
    'out': Layout(('attention', 'out'), _out, transpose=_OUTPUTS_FIRST),
    'gate': Layout(_GATE_UP, _gate, (_ALL, 0), _INPUTS_LAST),
    'up': Layout(_GATE_UP, _gate, (_ALL, 1), _INPUTS_LAST),
    'down': Layout(('mlp', 'down'), lambda c: (c.width, c.mlp_width), transpose=_INPUTS_LAST),
    # A mixture of experts.
    'router': Layout(
        ('mlp', 'router'), lambda c: (_experts(c).count, c.width), transpose=_INPUTS_LAST),
    'balancing_bias': Layout(('mlp', 'balancing_bias'), lambda c: (_experts(c).count,)),
    'expert_gate': Layout(
        ('mlp', 'experts_gate_up'), _expert_up, (_ALL, 0), _INPUTS_LAST, per_expert=True),
    'expert_up': Layout(
        ('mlp', 'experts_gate_up'), _expert_up, (_ALL, 1), _INPUTS_LAST, per_expert=True),
    'expert_down': Layout(('mlp', 'experts_down'), lambda c: (c.width, _experts(c).width),
                          transpose=_INPUTS_LAST, per_expert=True),
    'shared_gate': Layout((*_SHARED, 'gate_up'), _shared, (_ALL, 0), _INPUTS_LAST),
    'shared_up': Layout((*_SHARED, 'gate_up'), _shared, (_ALL, 1), _INPUTS_LAST),
    'shared_down': Layout((*_SHARED, 'down'), lambda c: _shared(c)[::-1], transpose=_INPUTS_LAST),
    # Latent attention.
    'query_latent': Layout(
        ('attention', 'query_compress'), _query_latent, transpose=_INPUTS_LAST),
    'latent': Layout(('attention', 'compress'),
                     lambda c: (_latent(c).rank + _latent(c).rope_dim, c.width),
                     transpose=_INPUTS_LAST),
    'query_latent_norm': Layout(('attention', 'query_norm', 'scale'), _query_latent_norm),
    'latent_norm': Layout(('attention', 'latent_norm', 'scale'), lambda c: (_latent(c).rank,)),
    'latent_query': Layout(('attention', 'query'), _latent_query, transpose=_INPUTS_LAST),
    'direct_query': Layout(('attention', 'query'), _direct_query, transpose=_INPUTS_LAST),
    'latent_key_value': Layout(
        ('attention', 'key_value'), _latent_key_value, transpose=_INPUTS_LAST),
    # The prediction head; its layer has the roles of any other layer.
    'prediction_embedding_norm': Layout((*_PREDICTION, 'embedding_norm', 'scale'), _width,
                                        layered=False),
    'prediction_hidden_norm': Layout((*_PREDICTION, 'hidden_norm', 'scale'), _width, layered=False),
    'prediction_projection': Layout(
        (*_PREDICTION, 'projection'), lambda c: (c.width, 2 * c.width),
        transpose=_OUTPUTS_FIRST, layered=False),
    'prediction_norm': Layout((*_PREDICTION, 'final_norm', 'scale'), _width, layered=False),
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

# A last layer, numbered after all others, is the prediction head's.
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

# Family -> role -> name in a Hugging Face checkpoint, with {} for the number of the layer, and a
# second {} for the number of the expert.
FAMILIES = {
    'llama': _LLAMA,
    'qwen2': _LLAMA | {
        'query_bias': 'model.layers.{}.self_attn.q_proj.bias',
        'key_bias': 'model.layers.{}.self_attn.k_proj.bias',
        'value_bias': 'model.layers.{}.self_attn.v_proj.bias',
    },
    'qwen3': _QWEN3,
    'qwen3_moe': _QWEN3 | _EXPERTS,
    'smollm3': _LLAMA,
    'mistral': _LLAMA,
    'ministral': _LLAMA,
    'ministral3': _LLAMA,
    'gemma3_text': _QWEN3 | {
        'attention_post_norm': 'model.layers.{}.post_attention_layernorm.weight',
        'mlp_norm': 'model.layers.{}.pre_feedforward_layernorm.weight',
        'mlp_post_norm': 'model.layers.{}.post_feedforward_layernorm.weight',
    },
    'deepseek_v3': _DEEPSEEK_V3,
}

# Roles that a model of the family need not have.
_OPTIONAL = {'unembedding', 'gate', 'up', 'down', 'query_latent', 'query_latent_norm'} | {
    role for role in LAYOUTS
    if role.startswith(('expert_', 'shared_', 'prediction_', 'router', 'latent_', 'direct_'))}

# Role -> name in a GGUF file. One tensor has the matrices of all experts; [{}] is one of them.
_GGUF = {
    'embedding': 'token_embd.weight',
    'attention_norm': 'blk.{}.attn_norm.weight',
    'attention_post_norm': 'blk.{}.post_attention_norm.weight',
    'mlp_norm': 'blk.{}.ffn_norm.weight',
    'mlp_post_norm': 'blk.{}.post_ffw_norm.weight',
    'query': 'blk.{}.attn_q.weight',
    'query_bias': 'blk.{}.attn_q.bias',
    'query_norm': 'blk.{}.attn_q_norm.weight',
    'key': 'blk.{}.attn_k.weight',
    'key_bias': 'blk.{}.attn_k.bias',
    'key_norm': 'blk.{}.attn_k_norm.weight',
    'value': 'blk.{}.attn_v.weight',
    'value_bias': 'blk.{}.attn_v.bias',
    'out': 'blk.{}.attn_output.weight',
    'gate': 'blk.{}.ffn_gate.weight',
    'up': 'blk.{}.ffn_up.weight',
    'down': 'blk.{}.ffn_down.weight',
    'router': 'blk.{}.ffn_gate_inp.weight',
    'balancing_bias': 'blk.{}.exp_probs_b.bias',
    'expert_gate': 'blk.{}.ffn_gate_exps.weight[{}]',
    'expert_up': 'blk.{}.ffn_up_exps.weight[{}]',
    'expert_down': 'blk.{}.ffn_down_exps.weight[{}]',
    'shared_gate': 'blk.{}.ffn_gate_shexp.weight',
    'shared_up': 'blk.{}.ffn_up_shexp.weight',
    'shared_down': 'blk.{}.ffn_down_shexp.weight',
    'query_latent': 'blk.{}.attn_q_a.weight',
    'query_latent_norm': 'blk.{}.attn_q_a_norm.weight',
    'latent_query': 'blk.{}.attn_q_b.weight',
    'direct_query': 'blk.{}.attn_q.weight',
    'latent': 'blk.{}.attn_kv_a_mqa.weight',
    'latent_norm': 'blk.{}.attn_kv_a_norm.weight',
    'latent_key_value': 'blk.{}.attn_kv_b.weight',
    'final_norm': 'output_norm.weight',
    'unembedding': 'output.weight',
}
# Family -> role -> name in a GGUF file.
GGUF = {family: {role: _GGUF[role] for role in table if role in _GGUF}
        for family, table in FAMILIES.items()}


class Tensor(NamedTuple):
  """One tensor of a checkpoint, and where it lies in the array at `path` of the parameters."""
  role: str
  path: tuple[str, ...]
  leading: tuple[int, ...]   # its indices along the array's first axes: layer in the stack, expert
  shape: tuple[int, ...]     # in the checkpoint

  def box(self, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """(begin, end) of the tensor along each axis of the array, which has this shape."""
    spans = (range(size)[at] for at, size in zip(self._select(len(shape)), shape))
    return tuple((at.start, at.stop) if isinstance(at, range) else (at, at + 1) for at in spans)

  def axes(self, count: int) -> list[int]:
    """Which of the array's `count` axes the tensor has, in its order; several may be its rows."""
    kept = [i for i, at in enumerate(self._select(count)) if isinstance(at, slice)]
    transpose = LAYOUTS[self.role].transpose
    return kept[transpose:] + kept[:transpose]

  def _select(self, count: int) -> tuple[slice | int, ...]:
    select = (*self.leading, *LAYOUTS[self.role].select)
    return select + (_ALL,) * (count - len(select))


def tensors(config: ModelConfig, names: dict[str, str]) -> dict[str, Tensor]:
  """Name -> tensor of a checkpoint of this architecture.

  Args:
    config: the architecture.
    names: role -> name, one of `FAMILIES` or of `GGUF`.

  Raises:
    UserError: the family has no name for one of the parameters, or a parameter is missing for one
      of its names.
  """
  paths = {keys(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes(config)[0])}
  layers = _layers(config)
  # The tensors that the prediction head has besides those of its layer are numbered as that layer.
  no_layer: list[_Layer] = [_Layer(config.num_layers, (), ())]
  result = {}
  for role, name in names.items():
    layout = LAYOUTS[role]
    for layer in layers if layout.layered else no_layer:
      path = layer.path + layout.path
      if path in paths and (shape := layout.shape(config)):
        for expert in range(_experts(config).count) if layout.per_expert else (None,):
          leading = layer.leading if expert is None else (*layer.leading, expert)
          result[name.format(layer.number, expert)] = Tensor(role, path, leading, shape)
  named = {tensor.path for tensor in result.values()}
  absent = {LAYOUTS[role].path for role in names.keys() - {t.role for t in result.values()}
            - _OPTIONAL - ({'balancing_bias'} if config.experts is None else set())}
  if odd := (paths - named) | absent:
    raise UserError(
        f'Checkpoints of family={config.family!r} cannot hold a model with qkv_bias='
        f'{config.qkv_bias}, qk_norm={config.qk_norm} and the other fields given (only one of them '
        f'has {".".join(min(odd))}): qkv_bias belongs to \'qwen2\', qk_norm to \'qwen3\', '
        '\'qwen3_moe\' and \'gemma3_text\', post_norms to \'gemma3_text\', latent attention, '
        'sigmoid routing and prediction_head to \'deepseek_v3\'; the others have none of them.')
  return result


def aliases(config: ModelConfig, names: dict[str, str]) -> dict[str, str]:
  """Name -> name of the tensor that it repeats, for names that a checkpoint may have or not.

  A checkpoint of a tied model may have an unembedding, and DeepSeek-V3's prediction head repeats
  embedding and unembedding.

  Args:
    config: the architecture.
    names: role -> name, one of `FAMILIES`.
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
  """Whether a tensor of this name in a checkpoint is ignored.

  Those are `inv_freq` of old Llama checkpoints, and DeepSeek-V3's prediction head if the model has
  none.
  """
  return name.endswith('rotary_emb.inv_freq') or (
      config.family == 'deepseek_v3' and not config.prediction_head
      and name.startswith(f'model.layers.{config.num_layers}.'))


class _Layer(NamedTuple):
  number: int                # in a checkpoint
  path: tuple[str, ...]      # of its stack
  leading: tuple[int, ...]   # its index in the stack


def _layers(config: ModelConfig) -> list[_Layer]:
  """Every layer, the prediction head's last."""
  result, first, stack = [], 0, 0
  for pattern, repeats in config.runs:
    for repeat in range(repeats):
      for at in range(len(pattern)):
        number = first + repeat * len(pattern) + at
        result.append(_Layer(number, ('stacks', f'stack_{stack + at}'), (repeat,)))
    first, stack = first + repeats * len(pattern), stack + len(pattern)
  if config.prediction_head:
    result.append(_Layer(config.num_layers, ('prediction', 'block'), ()))
  return result


_NUMBERED = {'layers': re.compile(r'^(?:model\.layers|blk)\.(\d{1,9})\.'),
             'experts': re.compile(r'(?:\.experts\.|_exps\.weight\[)(\d{1,9})\b')}


def check_counts(source: str, config: ModelConfig, found: Iterable[str]) -> None:
  """Refuses a configuration of many more layers or experts than its checkpoint has tensors of.

  It is checked before names and shapes are made for each of them.

  Args:
    source: where the checkpoint is, for the message.
    config: the architecture.
    found: names of tensors.
  """
  found = list(found)
  wanted = {'layers': config.num_layers, 'experts': config.experts.count if config.experts else 0}
  for what, count in wanted.items():
    numbers = {int(match[1]) for name in found if (match := _NUMBERED[what].search(name))}
    if count > max(numbers, default=-1) + 1:
      raise UserError(
          f'The tensors of {source} are those of {max(numbers, default=-1) + 1} {what}, but its '
          f'configuration describes {count}: use weights and configuration of one checkpoint.')


def check(source: str, expected: dict[str, Tensor], found: dict[str, tuple[int, ...]]) -> None:
  """Compares the tensors of a checkpoint with those that its architecture needs.

  Args:
    source: where the checkpoint is, for the message.
    expected: what `tensors` returns.
    found: name -> shape of each tensor that is there.

  Raises:
    UserError: tensors are missing, unexpected or of the wrong shape; the message names up to three
      of each.
  """
  def some(names):
    names = list(names)
    return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')

  faults = {
      'missing': some(name for name in expected if name not in found),
      'unexpected': some(name for name in found if name not in expected),
      'wrong shape': some(
          f'{name} {list(found[name])}, expected {list(tensor.shape)}'
          for name, tensor in expected.items() if name in found and found[name] != tensor.shape)}
  if any(faults.values()):
    listed = '; '.join(f'{fault}: {names}' for fault, names in faults.items() if names)
    raise UserError(f'The tensors of {source} do not match its configuration ({listed}): use '
                    'weights and configuration of one checkpoint.')


def check_shapes(config: ModelConfig, params) -> None:
  """Raises UserError unless `params` is a parameter tree of this architecture."""
  def shape_of_path(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {'.'.join(keys(path)): leaf.shape for path, leaf in leaves}

  expected, found = shape_of_path(shapes(config)[0]), shape_of_path(params)
  for name in expected | found:
    if expected.get(name) != found.get(name):
      raise UserError(
          f'The parameter {name} has the shape {found.get(name)}, but the configuration needs '
          f'{expected.get(name)}: pass the configuration that the parameters were made with.')


@functools.cache
def shapes(config: ModelConfig):
  """(ShapeDtypeStructs, logical axes): two trees like the parameters of this architecture."""
  model = build(config)
  return jax.eval_shape(model.init, jax.random.key(0)), model.logical_axes


def keys(path: Iterable) -> tuple[str, ...]:
  """The keys on a path of `jax.tree_util`."""
  return tuple(entry.key for entry in path)
