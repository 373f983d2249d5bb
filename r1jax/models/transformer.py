"""The decoder-only transformer, described with flax.nnx and used from outside as pure functions.

RMSNorm before attention and MLP, rotary positions, no dropout. Layers are runs of (pattern,
repeats): the layers at one place of a pattern are stacked, and the repeats are scanned. Rows that
decode read a layer of the cache where it lies in its stack, and the new keys and values come out of
the scan, so no step copies a cache.
Master weights are float32; products run in `compute_dtype`; norms, routing, softmax and
log-probabilities in float32.

Departure: a layer with a window still keeps the keys and values of a whole prompt.
"""
from collections.abc import Callable
import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from r1jax.kernels import flash
from r1jax.kernels.decode import KeySet, make_steps
from r1jax.models import quantized
from r1jax.models.attention import Context, KeyValue
from r1jax.models.config import ModelConfig
from r1jax.models.contexts import contexts_of_kinds
from r1jax.models.experts import DOWN_AXES, GATE_UP_AXES
from r1jax.models.kv_cache import Cache, key_sets
from r1jax.models.latent_attention import LatentAttention
from r1jax.models.layers import (
    Attention,
    Mlp,
    join_gate_up,
    join_heads,
    norm,
    normal,
    product,
)
from r1jax.models.moe import FLOAT32_PARAMETERS, MixtureOfExperts, Routing
from r1jax.models.quantized import Quantized
from r1jax.runtime import sharding


class Block(nnx.Module):
  """One layer: x + attention(norm(x)), then x + mlp(norm(x)); optionally norms after both too."""

  def __init__(self, config: ModelConfig, kind: str, rngs: nnx.Rngs):
    self.attention_norm = norm(config)
    self.attention = (LatentAttention if config.latent else Attention)(config, rngs)
    self.mlp_norm = norm(config)
    self.mlp = (MixtureOfExperts if kind == 'experts' else Mlp)(config, rngs)
    self.attention_post_norm = norm(config) if config.post_norms else None
    self.mlp_post_norm = norm(config) if config.post_norms else None

  def __call__(self, x, context: Context, real) -> tuple[jax.Array, KeyValue, Routing | None]:
    """Applies the layer to x [N, T, width]; real [N, T] bool says which tokens `Routing` counts."""
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
    """Applies the head to hidden states and the embeddings of the next tokens, [N, T, width]."""
    both = jnp.concatenate([self.embedding_norm(following), self.hidden_norm(hidden)], -1)
    x = product(both, self.projection[...])
    x, _, routing = self.block(x, context, real)
    return self.final_norm(x), routing


class Transformer(nnx.Module):
  """The parameters; `stacks` holds a stacked Block for each place of each pattern, in order."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
    def stack(kind, repeats):
      make = nnx.vmap(lambda r: Block(config, kind, r), in_axes=0, out_axes=0)
      return make(rngs.split(repeats))

    kinds = [(kind, repeats) for pattern, repeats in config.runs for kind in pattern]
    self.embedding = normal(rngs, (config.vocab_size, config.width))
    self.stacks = nnx.Dict({
        f'stack_{i}': stack(kind, repeats) for i, (kind, repeats) in enumerate(kinds)})
    self.final_norm = norm(config)
    self.unembedding = (
        None if config.tied_embedding else normal(rngs, (config.vocab_size, config.width)))
    self.prediction = PredictionHead(config, rngs) if config.prediction_head else None


# Parameter path (its last name) -> logical axes, without the leading axis of a stack.
LOGICAL_AXES: dict[str, tuple[str | None, ...]] = {
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
  """A transformer as everything outside `models/` sees it: a parameter pytree and pure functions.

  Attributes:
    config: the architecture.
    init: (key) -> params, the float32 master weights.
    apply: (params, tokens [N, T], *, positions [N, T], segment_ids [N, T], parent_ids [N, T],
      cache) -> (hidden [N, T, width], new_kv, aux). A token sees the earlier tokens of its own
      segment (0 is padding), those of the segment named by `parent_ids` (a completion's prompt; 0
      or no parent_ids: none) and, with a cache, its prefix and suffix. `aux['routing']` is a
      `moe.Routing` where the model has experts.
    unembed: (params, hidden) -> float32 logits [..., V], -1e30 where `token_mask` is false.
    unembedding: (params) -> [V, width], for `training.logprobs`, which never makes whole logits.
    logical_axes: a tree like params, of tuples of names that `sharding.RULES` places.
    predict_ahead: None without `config.prediction_head`; otherwise (params, hidden, tokens, *,
      positions, segment_ids) -> (hidden [N, T, width], targets [N, T], mask [N, T] bool, aux), for
      the loss of that head. Position i knows `hidden` of `apply` up to i and token i + 1, and
      predicts token i + 2, its target. The mask is true where the three are in one segment.
      Gradients flow to `hidden` and to all parameters the head shares.
    token_mask: [V] bool, false for ids that no token of the tokenizer has; None: all have one.
  """
  config: ModelConfig
  init: Callable
  apply: Callable
  unembed: Callable
  unembedding: Callable
  logical_axes: dict
  predict_ahead: Callable | None = None
  token_mask: np.ndarray | None = None


def build(config: ModelConfig, *, compute_dtype: str = 'float32', remat: bool = False,
          token_mask: np.ndarray | None = None) -> Model:
  """Builds the pure functions of a transformer.

  Args:
    config: the architecture.
    compute_dtype: 'float32' or 'bfloat16', for products and activations; params stay float32.
    remat: keep only each pattern's input for the backward pass. Otherwise the results of the
      layers' projections are kept too. Attention weights, norms, gates and the experts' products
      are recomputed either way.
    token_mask: [V] bool: ids for which it is false are neither drawn nor have a share of the
      probability, in sampling and training alike (vocabularies are padded beyond the tokenizer).
  """
  functions = _Functions(config, jnp.dtype(compute_dtype), remat, token_mask)
  return Model(config, jax.jit(functions.init, out_shardings=None), functions.apply,
               functions.unembed, functions.unembedding, functions.logical_axes,
               functions.predict_ahead if config.prediction_head else None, token_mask)


class _Stack(NamedTuple):
  """A stack of layers: one place of one run's pattern."""
  number: int          # among all stacks
  kind: str            # of its layers
  graph: Any           # the nnx.GraphDef of one layer
  logical_axes: dict   # of one layer's parameters

  @property
  def name(self) -> str:
    """Its key in params['stacks']."""
    return f'stack_{self.number}'


class _Functions:
  """The functions of a `Model`, for one architecture, compute dtype and choice of `remat`."""

  def __init__(self, config: ModelConfig, dtype: jnp.dtype, remat: bool,
               token_mask: np.ndarray | None):
    self.config, self.dtype, self.token_mask = config, dtype, token_mask
    shapes = nnx.eval_shape(lambda: Transformer(config, nnx.Rngs(0)))
    self.graph = nnx.graphdef(shapes)
    self.logical_axes = _logical_axes(shapes)
    self.runs = self._stacks_of_runs()
    # The results of products with a matrix and of attention are kept for the backward pass; to
    # recompute the rest is cheaper than to write and read it.
    policies = jax.checkpoint_policies
    self.policy = None if remat else policies.save_from_both_policies(
        policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names(flash.SAVED))

  def _stacks_of_runs(self) -> list[list[_Stack]]:
    runs: list[list[_Stack]] = []
    number = 0
    for pattern, _ in self.config.runs:
      stacks = []
      for kind in pattern:
        axes = jax.tree.map(lambda axes: axes[1:], self.logical_axes['stacks'][f'stack_{number}'],
                            is_leaf=lambda x: isinstance(x, tuple))
        stacks.append(_Stack(number, kind, _block_graph(self.config, kind), axes))
        number += 1
      runs.append(stacks)
    return runs

  def init(self, key):
    model = Transformer(self.config, nnx.Rngs(params=key))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))

  def apply(self, params, tokens, *, positions, segment_ids, parent_ids=None,
            cache: Cache | None = None):
    model = nnx.merge(self.graph, params)
    x = self._embed(model, tokens)
    contexts = contexts_of_kinds(self.config, positions, segment_ids, parent_ids, cache)
    real = segment_ids != 0
    new_kv: list[KeyValue] = []
    routings: list[Routing] = []
    for stacks in self.runs:
      scanned = [(params['stacks'][stack.name], _prefix(cache, stack.number)) for stack in stacks]
      of_stacks = [contexts[stack.kind] for stack in stacks]
      if cache is not None and cache.suffix is not None:
        of_stacks = [_decoding(context, key_sets(self.config, cache, stack.kind, stack.number,
                                                 tokens=tokens.shape[1]))
                     for context, stack in zip(of_stacks, stacks)]
      x, (key_values, routing) = self._run_layers(stacks, x, scanned, of_stacks, real)
      new_kv += key_values
      if routing:
        routings.append(_in_layer_order(routing))
    aux = {'routing': jax.tree.map(lambda *xs: jnp.concatenate(xs), *routings)} if routings else {}
    return model.final_norm(x), tuple(new_kv), aux

  def _run_layers(self, stacks: list[_Stack], x, scanned, contexts: list[Context], real):
    """One run of layers: its pattern, scanned over the repeats.

    Args:
      stacks: the stacks of the pattern.
      x: [N, T, width].
      scanned: (params, prefix) of each stack, leaves [repeats, ...].
      contexts: what attention needs, of each stack.
      real: [N, T] bool.

    Returns:
      x and ([KeyValue of each stack], [Routing of each stack with experts]), leaves [repeats, ...].
    """
    repeats = jax.tree.leaves(scanned[0])[0].shape[0]

    def run_pattern(x, layer_and_scanned):
      key_values, routings = [], []
      layer, scanned = layer_and_scanned
      for stack, context, (params, prefix) in zip(stacks, contexts, scanned):
        if repeats == 1:
          params = quantized.kept_in_loop(params, x)
        block = nnx.merge(stack.graph, self._to_compute(params, stack.logical_axes))
        context = context._replace(prefix=prefix, layer=layer)
        x, key_value, routing = block(x, context, real)
        key_values.append(key_value)
        routings += [] if routing is None else [routing]
      return x, (key_values, routings)
    return jax.lax.scan(jax.checkpoint(run_pattern, prevent_cse=False, policy=self.policy), x,
                        (jnp.arange(repeats, dtype=jnp.int32), scanned))

  def _to_compute(self, params, axes):
    """A layer's parameters as its products read them: on a mesh, matrices cast, then gathered.

    Casting first halves what is gathered. The matrices of experts are only cast here: their
    products gather them. Embeddings and norms are cast where they are used.
    """
    def one(path, x, axes):
      if not {'embed', 'rank'} & set(axes):
        return x
      if not isinstance(x, Quantized) and path[-1].key not in FLOAT32_PARAMETERS:
        x = x.astype(self.dtype)
      if x.ndim < len(axes):    # joined for decoding
        axes = [axis for axis in axes if axis]
      return x if 'expert' in axes else quantized.gathered(x, *axes)
    if not sharding.is_multi_device():
      return params
    return jax.tree_util.tree_map_with_path(
        one, params, axes, is_leaf=lambda x: isinstance(x, Quantized))

  def _embed(self, model: Transformer, tokens):
    table = sharding.gathered(model.embedding[...].astype(self.dtype), *LOGICAL_AXES['embedding'])
    x = sharding.constrain(table[tokens], 'batch', 'sequence', None)
    if not self.config.scaled_embedding:
      return x
    return x * jnp.asarray(self.config.width ** 0.5, self.dtype)

  def predict_ahead(self, params, hidden, tokens, *, positions, segment_ids):
    followed = (segment_ids != 0) & (_shift(segment_ids, 1) == segment_ids)
    contexts = contexts_of_kinds(self.config, positions, segment_ids * followed, None, None)
    context = contexts[self.config.kinds[-1]]

    @functools.partial(jax.checkpoint, policy=self.policy)
    def run(params, hidden):
      head = self._to_compute(params['prediction'], self.logical_axes['prediction'])
      model = nnx.merge(self.graph, params | {'prediction': head})
      return model.prediction(hidden, self._embed(model, _shift(tokens, 1)), context, followed)
    hidden, routing = run(params, hidden)
    aux = {} if routing is None else {'routing': jax.tree.map(lambda x: x[None], routing)}
    mask = followed & (_shift(segment_ids, 2) == segment_ids)
    return hidden, _shift(tokens, 2), mask, aux

  def unembedding(self, params):
    return params['embedding'] if self.config.tied_embedding else params['unembedding']

  def unembed(self, params, hidden):
    table = sharding.gathered(
        self.unembedding(params).astype(self.dtype), *LOGICAL_AXES['unembedding'])
    logits = jnp.einsum('...d,vd->...v', hidden, table, preferred_element_type=jnp.float32)
    logits = mask_logits(logits, self.token_mask)
    return sharding.constrain(logits, 'batch', *[None] * (logits.ndim - 2), 'vocab')


def mask_logits(logits: jax.Array, token_mask: np.ndarray | jax.Array | None) -> jax.Array:
  """Logits [..., V], set to -1e30 where `token_mask` [V] is false; None changes nothing.

  The probability is 0, and the log-probability finite: what a mask leaves out may have any id.
  """
  return logits if token_mask is None else jnp.where(token_mask, logits, -1e30)


def _block_graph(config: ModelConfig, kind: str):
  return nnx.graphdef(nnx.eval_shape(lambda: Block(config, kind, nnx.Rngs(0))))


def _logical_axes(shapes: Transformer) -> dict:
  def axes(path, leaf):
    names = [getattr(entry, 'key', None) for entry in path]
    stacked = (None,) if 'stacks' in names else ()
    return stacked + LOGICAL_AXES[names[-1]]
  return jax.tree_util.tree_map_with_path(axes, nnx.to_pure_dict(nnx.state(shapes, nnx.Param)))


def _decoding(context: Context, cached: tuple[KeySet, ...]) -> Context:
  """The context of layers whose rows read these sets."""
  return context._replace(cached=cached, steps=make_steps(cached, shards=context.shards))


def _prefix(cache: Cache | None, stack: int) -> KeyValue | None:
  """The prefix of the stack with this number, where its layers are scanned with it."""
  return cache.prefix[stack] if cache is not None and cache.suffix is None else None


def _in_layer_order(routings: list[Routing]) -> Routing:
  """Merges the routings of a pattern's stacks, leaves [repeats, ...], in the layers' order."""
  def interleave(*xs):
    return jnp.stack(xs, 1).reshape(len(xs) * xs[0].shape[0], *xs[0].shape[1:])
  return jax.tree.map(interleave, *routings)


def _shift(x: jax.Array, by: int) -> jax.Array:
  """Moves x [N, T] to the left: column t gets what column t + by held; zeros follow."""
  return jnp.pad(x[:, by:], ((0, 0), (0, min(by, x.shape[1]))))


# Matrices that are joined to rows and columns for decoding. Those of experts, gates and ups always
# are; of the others in bfloat16 libtpu would keep copies of the joined stacks.
_JOINS = {'qkv': join_heads, 'query': join_heads, 'gate_up': join_gate_up,
          'experts_gate_up': join_gate_up}


def for_decoding(
    params: Any, compute_dtype: str, logical_axes: Any, *, weight_dtype: str = '') -> Any:
  """The parameters as decoding reads them fastest; `apply` and `unembed` accept them too.

  They are cast, except those that route tokens, or the layers' matrices quantised
  (`quantized.SUMMED_AXES`); placed by the sharding rules in force; and the columns of some are
  joined (`layers.join_heads`, `layers.join_gate_up`). The sampler does so once per rollout.

  Args:
    params: of the model.
    compute_dtype: the dtype to cast to.
    logical_axes: `Model.logical_axes`.
    weight_dtype: one of `quantized.WEIGHT_DTYPES`; '' for the compute dtype.
  """
  def one(path, x, axes):
    name = path[-1].key
    if weight_dtype and name in quantized.SUMMED_AXES:
      x = quantized.quantize(x, quantized.SUMMED_AXES[name], weight_dtype)
    elif name not in FLOAT32_PARAMETERS:
      x = x.astype(compute_dtype)
    x = jax.tree.map(lambda array: sharding.constrain(array, *axes), x)
    if name in _JOINS and (isinstance(x, Quantized) or 'expert' in axes or name == 'gate_up'):
      return jax.tree.map(lambda array: _JOINS[name](array, *axes), x)
    return x
  return jax.tree_util.tree_map_with_path(one, params, logical_axes)


def prompt_segments(tokens: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(positions, segment_ids), both [B, P], of prompts padded on the right.

  Args:
    tokens: [B, P].
    lengths: [B], real tokens of each prompt.
  """
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  return positions, (positions < lengths[:, None]).astype(jnp.int32)
