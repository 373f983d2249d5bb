"""The decoder-only transformer, described with flax.nnx and seen from outside as pure functions.

RMSNorm before attention and MLP, rotary positions, no dropout. Layers are runs of (pattern,
repeats); the layers at one place of a pattern are stacked, and the repeats scanned. The cache goes
into the scan read-only and the new keys and values come out of it, so no step copies a cache.
Master weights are float32, the products run in `compute_dtype`, norms, routing, softmax and
log-probabilities in float32.

Departure: a layer that sees a window only still keeps the keys and values of all positions.
"""
import dataclasses
import functools
from typing import Callable, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from r1jax.kernels import flash
from r1jax.kernels.marks import Marks
from r1jax.models import attention
from r1jax.models.attention import Context, KeyValue
from r1jax.models.config import ModelConfig
from r1jax.models.latent_attention import LatentAttention
from r1jax.models.layers import Attention, Mlp, norm, normal, product
from r1jax.models.moe import (
  DOWN_AXES,
  FLOAT32_PARAMETERS,
  GATE_UP_AXES,
  MixtureOfExperts,
  Routing,
  joined,
)
from r1jax.records import pytree_dataclass
from r1jax.runtime import sharding


@pytree_dataclass
class Cache:
  """What earlier tokens leave for later ones; opaque outside `models/`.

  `prefix` belongs to the prompts [B], is never written and never copied per completion; `suffix`
  belongs to the completions [N] and holds `length` tokens of each.
  """
  prefix: tuple[KeyValue, ...]              # a KeyValue per stack of layers, leaves [L, B, ...]
  prefix_mask: jax.Array                    # [B, P] bool
  suffix: tuple[KeyValue, ...] | None = None  # leaves [L, N, ...]; None: no completion token yet
  length: jax.Array | None = None           # int32 scalar


class Block(nnx.Module):
  """One layer: x + attention(norm(x)), then + mlp(norm(·)); with post norms around both too."""

  def __init__(self, config: ModelConfig, kind: str, rngs: nnx.Rngs):
    self.attention_norm = norm(config)
    self.attention = (LatentAttention if config.latent else Attention)(config, rngs)
    self.mlp_norm = norm(config)
    self.mlp = (MixtureOfExperts if kind == 'experts' else Mlp)(config, rngs)
    self.attention_post_norm = norm(config) if config.post_norms else None
    self.mlp_post_norm = norm(config) if config.post_norms else None

  def __call__(self, x, context: Context, real) -> tuple[jax.Array, KeyValue, Routing | None]:
    """x [N, T, width]; real [N, T] bool, for counting what was routed where."""
    out, key_value = self.attention(self.attention_norm(x), context)
    x = x + (out if self.attention_post_norm is None else self.attention_post_norm(out))
    if isinstance(self.mlp, MixtureOfExperts):
      out, routing = self.mlp(self.mlp_norm(x), real)
    else:
      out, routing = self.mlp(self.mlp_norm(x)), None
    x = x + (out if self.mlp_post_norm is None else self.mlp_post_norm(out))
    return sharding.constrain(x, 'batch', 'sequence', None), key_value, routing


class PredictionHead(nnx.Module):
  """DeepSeek-V3's layer that predicts the token after the next (arXiv:2412.19437, section 2.2)."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
    self.embedding_norm = norm(config)
    self.hidden_norm = norm(config)
    self.projection = normal(rngs, (2, config.width, config.width))
    self.block = Block(config, config.kinds[-1], rngs)
    self.final_norm = norm(config)

  def __call__(self, hidden, following, context: Context, real):
    """Hidden states and the embeddings of the tokens that follow, both [N, T, width]."""
    both = jnp.concatenate([self.embedding_norm(following), self.hidden_norm(hidden)], -1)
    x = product(both, self.projection[...].reshape(both.shape[-1], -1))
    x, _, routing = self.block(x, context, real)
    return self.final_norm(x), routing


class Transformer(nnx.Module):
  """Parameters only: `stacks` has a stacked Block for each place in a pattern, in order."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
    def stack(kind, repeats):
      make = nnx.vmap(lambda r: Block(config, kind, r), in_axes=0, out_axes=0)
      return make(rngs.split(repeats))

    self.embedding = normal(rngs, (config.vocab_size, config.width))
    self.stacks = nnx.Dict({
        f'stack_{i}': stack(kind, repeats) for i, (kind, repeats) in enumerate(stacks(config))})
    self.final_norm = norm(config)
    self.unembedding = (
        None if config.tied_embedding else normal(rngs, (config.vocab_size, config.width)))
    self.prediction = PredictionHead(config, rngs) if config.prediction_head else None


def stacks(config: ModelConfig) -> list[tuple[str, int]]:
  """(kind, number of layers) of each stack."""
  return [(kind, repeats) for pattern, repeats in config.runs for kind in pattern]


# Parameter path (its last names) -> logical axes, without the leading axis of a stack.
LOGICAL_AXES = {
    'embedding': ('vocab', 'embed'),
    'unembedding': ('vocab', 'embed'),
    'qkv': ('embed', 'kv_heads', None, None),
    'qkv_bias': ('kv_heads', None, None),
    'out': ('kv_heads', None, None, 'embed'),
    'gate_up': ('embed', None, 'mlp'),
    'down': ('mlp', 'embed'),
    'scale': (None,),
    'compress': ('embed', None),
    'query_compress': ('embed', None),
    'query': ('rank', 'heads', None),
    'key_value': ('rank', 'heads', None),
    'router': ('embed', None),
    'balancing_bias': (None,),
    'experts_gate_up': GATE_UP_AXES,
    'experts_down': DOWN_AXES,
    'projection': (None, 'embed', None),
}


class Model(NamedTuple):
  """A transformer as everything outside `models/` sees it: a parameter pytree, pure functions.

  init(key) -> params: float32 master weights.
  apply(params, tokens [N, T], *, positions [N, T], segment_ids [N, T], parent_ids [N, T], cache)
    -> (hidden [N, T, width], new_kv, aux): a token sees the earlier ones of its own segment
    (0 is padding), those of the segment that `parent_ids` names (a completion's prompt; 0, or no
    parent_ids: none) and, with a cache, the prefix and the suffix. `aux` has a `moe.Routing` as
    'routing' where the model has experts.
  unembed(params, hidden) -> float32 logits [..., V].
  unembedding(params) -> [V, width], for `logprobs`, which never makes whole logits.
  logical_axes: a tree like params, of tuples of names that `sharding.RULES` places.
  predict_ahead(params, hidden, tokens, *, positions, segment_ids) -> (hidden [N, T, width],
    targets [N, T], mask [N, T] bool, aux): with `prediction_head`, for its loss. Place i, which
    knows `hidden` of apply up to i and token i + 1, predicts target token i + 2 where the mask is
    true: the three are in one segment. It has gradients to `hidden` and all parameters it shares.
  """
  config: ModelConfig
  init: Callable
  apply: Callable
  unembed: Callable
  unembedding: Callable
  logical_axes: dict
  predict_ahead: Callable | None = None


def build(config: ModelConfig, *, compute_dtype: str = 'float32', remat: bool = False) -> Model:
  """The pure functions of a transformer of this shape.

  Args:
    config: the architecture.
    compute_dtype: 'float32' or 'bfloat16', of products and activations; params stay float32.
    remat: keep only each layer's input for the backward pass (each pattern's, where it has several
      layers), not its projections too. Attention weights, norms, gates and the experts' products
      are computed again either way.
  """
  dtype = jnp.dtype(compute_dtype)
  abstract = nnx.eval_shape(lambda: Transformer(config, nnx.Rngs(0)))
  graph = nnx.graphdef(abstract)
  block_graphs = [nnx.graphdef(nnx.eval_shape(lambda: Block(config, kind, nnx.Rngs(0))))
                  for kind, _ in stacks(config)]

  logical_axes = _logical_axes(abstract)
  block_axes = [jax.tree.map(lambda axes: axes[1:], logical_axes['stacks'][f'stack_{i}'],
                             is_leaf=lambda x: isinstance(x, tuple))
                for i in range(len(block_graphs))]

  # Activations that a product made are kept; recomputing the rest is cheaper than its traffic.
  policies = jax.checkpoint_policies
  policy = None if remat else policies.save_from_both_policies(
      policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names(flash.SAVED))

  def whole(params, axes):
    """A layer's matrices as its products read them, cast before they are gathered.

    Those of experts are only cast: their products gather them.
    """
    def one(path, x, axes):
      if not {'embed', 'rank'} & set(axes):
        return x
      x = x if path[-1].key in FLOAT32_PARAMETERS else x.astype(dtype)
      return x if 'expert' in axes else sharding.gathered(x, *axes)
    if not sharding.is_multi_device():
      return params
    return jax.tree_util.tree_map_with_path(one, params, axes)

  @functools.partial(jax.jit, out_shardings=None)
  def init(key):
    return nnx.to_pure_dict(nnx.state(Transformer(config, nnx.Rngs(params=key)), nnx.Param))

  def apply(params, tokens, *, positions, segment_ids, parent_ids=None,
            cache: Cache | None = None):
    model = nnx.merge(graph, params)
    x = embed(model, tokens)
    contexts = _contexts(config, positions, segment_ids, parent_ids, cache)
    real = segment_ids != 0

    def run(x, first, pattern):
      """One run of layers, whose pattern's stacks begin at `first`."""
      def body(x, scanned):
        key_values, routings = [], []
        for i, kind in enumerate(pattern):
          block_params, prefix, suffix = scanned[i]
          block_params = whole(block_params, block_axes[first + i])
          block = nnx.merge(block_graphs[first + i], block_params)
          context = contexts[kind]._replace(prefix=prefix, suffix=suffix)
          x, key_value, routing = block(x, context, real)
          key_values.append(key_value)
          routings += [] if routing is None else [routing]
        return x, (key_values, routings)

      of_stack = lambda parts, i: None if parts is None else parts[i]
      prefixes, suffixes = (None, None) if cache is None else (cache.prefix, cache.suffix)
      scanned = [(params['stacks'][f'stack_{i}'], of_stack(prefixes, i), of_stack(suffixes, i))
                 for i in range(first, first + len(pattern))]
      return jax.lax.scan(jax.checkpoint(body, prevent_cse=False, policy=policy), x, scanned)

    new_kv, routings = [], []
    for pattern, _ in config.runs:
      x, (key_values, routing) = run(x, len(new_kv), pattern)
      new_kv += key_values
      if routing:     # [repeats, ...] of each place -> in the layers' order
        routings.append(jax.tree.map(lambda *xs: jnp.stack(xs, 1).reshape(
            len(xs) * xs[0].shape[0], *xs[0].shape[1:]), *routing))
    aux = {'routing': jax.tree.map(lambda *xs: jnp.concatenate(xs), *routings)} if routings else {}
    return model.final_norm(x), tuple(new_kv), aux

  def embed(model, tokens):
    # Embeddings and norms are cast where they are used; matrices inside their layer.
    table = sharding.gathered(model.embedding[...].astype(dtype), *LOGICAL_AXES['embedding'])
    x = sharding.constrain(table[tokens], 'batch', 'sequence', None)
    return x * jnp.asarray(config.width ** 0.5, dtype) if config.scaled_embedding else x

  def predict_ahead(params, hidden, tokens, *, positions, segment_ids):
    later = lambda x, by: jnp.pad(x[:, by:], ((0, 0), (0, min(by, x.shape[1]))))
    joined = (segment_ids != 0) & (later(segment_ids, 1) == segment_ids)
    context = _contexts(config, positions, segment_ids * joined, None, None)[config.kinds[-1]]

    @functools.partial(jax.checkpoint, policy=policy)
    def run(params, hidden):
      params = params | {'prediction': whole(params['prediction'], logical_axes['prediction'])}
      model = nnx.merge(graph, params)
      return model.prediction(hidden, embed(model, later(tokens, 1)), context, joined)
    hidden, routing = run(params, hidden)
    aux = {} if routing is None else {'routing': jax.tree.map(lambda x: x[None], routing)}
    mask = joined & (later(segment_ids, 2) == segment_ids)
    return hidden, later(tokens, 2), mask, aux

  def unembedding(params):
    return params['embedding'] if config.tied_embedding else params['unembedding']

  def unembed(params, hidden):
    table = sharding.gathered(unembedding(params).astype(dtype), *LOGICAL_AXES['unembedding'])
    logits = jnp.einsum('...d,vd->...v', hidden, table, preferred_element_type=jnp.float32)
    return sharding.constrain(logits, 'batch', *[None] * (logits.ndim - 2), 'vocab')

  return Model(config, init, apply, unembed, unembedding, logical_axes,
               predict_ahead if config.prediction_head else None)


def _contexts(
    config: ModelConfig, positions, segment_ids, parent_ids, cache: Cache | None) -> dict:
  """Kind of layer -> what its attention needs, but for the layer's own part of the cache."""
  parts = {}
  if cache is not None:
    parts['prefix_mask'] = cache.prefix_mask
    if cache.suffix is not None:
      size = cache.suffix[0].keys.shape[-1]
      parts['suffix_mask'] = jnp.arange(size) < cache.length
  count = positions.shape[1]
  long = attention.is_long(count, sum(mask.shape[-1] for mask in parts.values()))
  if long:
    ids = lambda x: None if x is None else x.astype(jnp.int32)
    places = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), positions.shape)
    parts['marks'] = marks = Marks(ids(segment_ids), ids(parent_ids), places)
  else:
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    if parent_ids is not None:
      same |= (parent_ids[:, :, None] == segment_ids[:, None, :]) & (parent_ids != 0)[:, :, None]
    parts['self_mask'] = same & jnp.tri(count, dtype=bool)
  contexts = {}
  if set(config.kinds) - {'local'}:
    context = Context(*attention.rotary_tables(config, positions), **parts)
    contexts = {kind: context for kind in config.kinds if kind != 'local'}
  if 'local' in config.kinds:
    if long:
      parts |= dict(marks=marks._replace(positions=ids(positions)), window=config.window)
    else:
      parts = _windowed(config.window, positions, cache, **parts)
    contexts['local'] = Context(
        *attention.rotary_tables(config, positions, local=True), **parts)
  return contexts


def _windowed(window: int, positions, cache, self_mask, prefix_mask=None, suffix_mask=None):
  """The masks of layers that see `window` positions: [N, T, ·] each.

  A prompt's place is its position, and a completion's cached tokens directly precede these.
  """
  near = lambda others: positions[:, :, None] - others[:, None, :] < window
  masks = dict(self_mask=self_mask & near(positions))
  if prefix_mask is not None:
    b, size = prefix_mask.shape
    real = jnp.repeat(prefix_mask, positions.shape[0] // b, 0)[:, None]
    masks['prefix_mask'] = real & near(jnp.arange(size)[None])
  if suffix_mask is not None:
    places = positions[:, :1] - cache.length + jnp.arange(suffix_mask.shape[-1])
    masks['suffix_mask'] = suffix_mask & near(places)
  return masks


def _logical_axes(abstract) -> dict:
  def axes(path, leaf):
    names = [getattr(entry, 'key', None) for entry in path]
    stacked = (None,) if 'stacks' in names else ()
    return stacked + LOGICAL_AXES[names[-1]]
  return jax.tree_util.tree_map_with_path(axes, nnx.to_pure_dict(nnx.state(abstract, nnx.Param)))


def cast(params, compute_dtype: str):
  """Float parameters in the compute type; the sampler casts once a rollout, not once a token.

  What routes tokens stays float32, as it is used.
  """
  return jax.tree_util.tree_map_with_path(
      lambda path, x: x if path[-1].key in FLOAT32_PARAMETERS else x.astype(compute_dtype), params)


def for_decoding(params, compute_dtype: str, logical_axes):
  """Parameters `cast`, placed by the rules in force, and those of experts `moe.joined`.

  `apply` and `unembed` take them too.
  """
  params = sharding.constrain_tree(cast(params, compute_dtype), logical_axes)
  return jax.tree_util.tree_map_with_path(
      lambda path, x: joined(x) if path[-1].key == 'experts_gate_up' else x, params)


def prompt_segments(tokens: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(positions, segment_ids), both [B, P], of prompts padded on the right."""
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  return positions, (positions < lengths[:, None]).astype(jnp.int32)


def as_prefix(new_kv, lengths: jax.Array) -> Cache:
  """The cache that completions of these prompts share. lengths [B]."""
  size = new_kv[0].keys.shape[-1]
  return Cache(_constrain_cached(new_kv), jnp.arange(size) < lengths[:, None])


def _constrain_cached(key_values):
  """Keys and values [L, N, K, ..] of all stacks as they lie on a mesh."""
  return jax.tree.map(lambda x: sharding.constrain(x, None, 'batch', 'kv_heads'), key_values)


def with_suffix(cache: Cache, num_rows: int, size: int, room: Callable | None = None) -> Cache:
  """Room for `size` completion tokens a row, kept tokens kept: a larger bucket is made so.

  `room` is `suffix_room`, or a program of it: it is called for one array after the other.
  """
  def grown(i: int, part: str) -> jax.Array:
    old = None if cache.suffix is None else getattr(cache.suffix[i], part)
    return (room or suffix_room)(
        old, getattr(cache.prefix[i], part), part=part, num_rows=num_rows, size=size)

  suffix = tuple(KeyValue(**{part: grown(i, part) for part in SUFFIX_AXES})
                 for i in range(len(cache.prefix)))
  length = jnp.int32(0) if cache.length is None else cache.length
  return dataclasses.replace(cache, suffix=suffix, length=length)


SUFFIX_AXES = {'keys': -1, 'values': -2}    # of positions, in each part of a KeyValue


def suffix_room(
    old: jax.Array | None, prefix: jax.Array, *, part: str, num_rows: int, size: int) -> jax.Array:
  """One array of a suffix with room for `size` tokens of each row, beginning with `old`.

  Args:
    old: that of fewer tokens; None: none yet.
    prefix: the same array of the prompts, [L, B, ...], for its other axes and its type.
    part: 'keys' or 'values'.
  """
  shape = list(prefix.shape)
  shape[1], shape[SUFFIX_AXES[part]] = num_rows, size
  new = jnp.zeros(shape, prefix.dtype)
  if old is not None:
    new = jax.lax.dynamic_update_slice(new, old, (0,) * new.ndim)
  return _constrain_cached(new)


def append(cache: Cache, new_kv) -> Cache:
  """The cache with one more completion token a row written at its length."""
  def write(old: KeyValue, new: KeyValue):
    at = cache.length
    return KeyValue(
        jax.lax.dynamic_update_slice_in_dim(old.keys, new.keys.astype(old.keys.dtype), at, -1),
        jax.lax.dynamic_update_slice_in_dim(old.values, new.values.astype(old.values.dtype), at, -2))

  suffix = tuple(write(old, new) for old, new in zip(cache.suffix, new_kv))
  return dataclasses.replace(cache, suffix=suffix, length=cache.length + 1)
