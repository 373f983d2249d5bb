"""The architecture of a decoder-only transformer, and its numbers of parameters and operations."""
from collections.abc import Sequence
import dataclasses

from r1jax.errors import UserError

KINDS = ('dense', 'local', 'no_rope', 'experts')

# The largest sizes that are accepted: far above every model, and small enough that a damaged or
# malicious file is refused at once, not after its shapes have been computed with.
LARGEST = {
    'vocab_size': 2 ** 24, 'width': 2 ** 20, 'num_layers': 10_000, 'num_heads': 2 ** 16,
    'num_kv_heads': 2 ** 16, 'head_dim': 2 ** 16, 'mlp_width': 2 ** 24, 'max_length': 2 ** 31 - 1,
    'window': 2 ** 31 - 1, 'rope_scaling.original_max_length': 2 ** 31 - 1,
    'experts.count': 2 ** 16, 'experts.per_token': 2 ** 16, 'experts.width': 2 ** 24,
    'experts.shared': 2 ** 16, 'experts.groups': 2 ** 16, 'latent.rank': 2 ** 20,
    'latent.rope_dim': 2 ** 16, 'latent.value_dim': 2 ** 16, 'latent.query_rank': 2 ** 20}


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """Llama 3's stretched rotary frequencies (arXiv:2407.21783; `llama3` in transformers).

  Frequencies that turn more than `high_frequency_factor` times within the original length are kept,
  those that turn less than `low_frequency_factor` times are divided by `factor`, and those in
  between are interpolated.
  """
  factor: float = 8.0
  low_frequency_factor: float = 1.0
  high_frequency_factor: float = 4.0
  original_max_length: int = 8192
  kind: str = 'llama3'


@dataclasses.dataclass(frozen=True)
class LinearScaling:
  """All rotary frequencies divided by one factor (arXiv:2306.15595; the larger Gemma 3)."""
  factor: float = 8.0
  kind: str = 'linear'


@dataclasses.dataclass(frozen=True)
class YarnScaling:
  """YaRN (arXiv:2309.00071), with the additions of DeepSeek-V3 and Ministral 3.

  Frequencies that turn more than `fast_turns` times within the original length are kept, those that
  turn less than `slow_turns` times are divided by `factor`; those in between are interpolated, from
  the frequency below the first bound to the one above the second if `truncate`. The rotated parts
  of queries and keys are multiplied by `attention_factor`, by default m(mscale) /
  m(mscale_all_dim), where m(s) = 0.1·s·ln(factor) + 1. In latent attention, scores are also
  multiplied by m(mscale_all_dim)². Queries are multiplied by
  1 + query_growth·ln(1 + ⌊position / original_max_length⌋).
  """
  factor: float = 40.0
  original_max_length: int = 4096
  fast_turns: float = 32.0
  slow_turns: float = 1.0
  mscale: float = 1.0
  mscale_all_dim: float = 1.0
  kind: str = 'yarn'
  attention_factor: float | None = None
  truncate: bool = True
  query_growth: float = 0.0


@dataclasses.dataclass(frozen=True)
class Experts:
  """The mixture of experts in the layers of kind 'experts'.

  A token's router scores are a softmax over all experts, or sigmoids. It is routed to the
  `per_token` experts with the highest scores (with 'sigmoid': score plus balancing bias), chosen
  from the `groups_per_token` groups whose two best experts have the highest sum. The experts'
  outputs are weighted by the scores without bias, divided by their sum if `normalise`, times
  `scale`.

  Raises UserError where fields contradict each other.
  """
  count: int
  per_token: int
  width: int                   # of one expert
  routing: str = 'softmax'     # or 'sigmoid'
  normalise: bool = True
  scale: float = 1.0
  groups: int = 1
  groups_per_token: int = 1
  shared: int = 0              # experts that every token passes through

  def __post_init__(self):
    if self.routing not in ('softmax', 'sigmoid'):
      raise UserError(f"routing must be 'softmax' or 'sigmoid', got {self.routing!r}")
    if self.count % self.groups or (self.groups > 1 and self.count < 2 * self.groups):
      raise UserError(f'count={self.count} experts cannot be divided into groups={self.groups} '
                       'equal groups of at least two: change one of them')
    if self.groups_per_token > self.groups:
      raise UserError(f'groups_per_token must be at most groups={self.groups}, got '
                       f'{self.groups_per_token}')
    available = self.count // self.groups * self.groups_per_token
    if not 1 <= self.per_token <= available:
      raise UserError(f'per_token must be from 1 to {available}, the number of experts in the '
                       f'groups of a token, got {self.per_token}')


@dataclasses.dataclass(frozen=True)
class Latent:
  """Latent attention (arXiv:2405.04434): keys and values of all heads are made from one latent.

  Of the `ModelConfig.head_dim` numbers of a head's query and key, `rope_dim` are rotated and the
  others have no position; all heads share the rotated key.
  """
  rank: int                    # of the latent that keys and values come from
  rope_dim: int
  value_dim: int               # of a head
  query_rank: int | None = None
  interleaved: bool = True     # rotary pairs are neighbours, not halves


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The architecture of one transformer.

  `family` is a key of `families.FAMILIES`: it decides the names of tensors in checkpoints, and
  nothing else. `layers` are runs of (pattern, repeats). A pattern is a tuple of kinds: 'dense'
  (attention to all earlier tokens, an MLP), 'local' (attention to the last `window` positions, an
  MLP), 'no_rope' (as 'dense', without rotary positions) or 'experts' (attention to all earlier
  tokens, a mixture of experts). () means `num_layers` dense layers.

  Raises UserError where fields contradict each other.
  """
  family: str
  vocab_size: int
  width: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int                # of queries and keys
  mlp_width: int               # of dense and local layers
  rope_theta: float = 10_000.0
  rope_scaling: RopeScaling | LinearScaling | YarnScaling | None = None
  norm_epsilon: float = 1e-6
  qkv_bias: bool = False       # Qwen2
  qk_norm: bool = False        # Qwen3, Gemma 3
  tied_embedding: bool = True
  max_length: int = 32_768     # positions that the checkpoint was trained for
  layers: tuple[tuple[tuple[str, ...], int], ...] = ()
  experts: Experts | None = None
  latent: Latent | None = None
  window: int | None = None               # positions that a local layer sees, its own included
  local_rope_theta: float | None = None   # of local layers, which then are not stretched
  query_scale: float | None = None        # scores are divided by its root; None means head_dim
  offset_norms: bool = False              # norms multiply by 1 + scale
  post_norms: bool = False                # norms after attention and MLP too
  scaled_embedding: bool = False          # embeddings are multiplied by the root of width
  activation: str = 'silu'                # of the MLP; or 'gelu_tanh'
  prediction_head: bool = False           # DeepSeek-V3's, for the token after the next

  def __post_init__(self):
    self._check_sizes()
    if self.num_heads % self.num_kv_heads:
      raise UserError(f'num_heads must be a multiple of num_kv_heads={self.num_kv_heads}, got '
                       f'{self.num_heads}')
    rope_dim = self.latent.rope_dim if self.latent else self.head_dim
    if rope_dim % 2:
      name = 'latent.rope_dim' if self.latent else 'head_dim'
      raise UserError(f'{name} must be even for rotary positions, got {rope_dim}')
    unknown = [kind for pattern, _ in self.runs for kind in pattern if kind not in KINDS]
    if unknown:
      raise UserError(f'layers={self.layers} has the unknown kind {unknown[0]!r}: use '
                       f'{", ".join(KINDS)}')
    count = sum(len(pattern) * repeats for pattern, repeats in self.runs)
    if count != self.num_layers:
      raise UserError(f'layers={self.layers} has {count} layers, but '
                       f'num_layers={self.num_layers}: set the same number')
    for kind, field in (('experts', 'experts'), ('local', 'window')):
      if (kind in self.kinds) != (getattr(self, field) is not None):
        raise UserError(f'{field}={getattr(self, field)} contradicts layers={self.layers}: set '
                         f'{field} if and only if there are layers of kind {kind!r}')
    if self.latent and (self.num_kv_heads != self.num_heads or self.qkv_bias or self.qk_norm
                        or 'local' in self.kinds or self.latent.rope_dim >= self.head_dim):
      raise UserError(
          f'latent={self.latent} needs num_kv_heads = num_heads, rope_dim < head_dim, no qkv_bias, '
          'no qk_norm and no local layers: change these fields')
    if self.activation not in ('silu', 'gelu_tanh'):
      raise UserError(f"activation must be 'silu' or 'gelu_tanh', got {self.activation!r}")

  def _check_sizes(self) -> None:
    for name, largest in LARGEST.items():
      owner, _, field = name.rpartition('.')
      value = getattr(getattr(self, owner) if owner else self, field, None)
      if value is not None and not (0 if field == 'shared' else 1) <= value <= largest:
        raise UserError(f'{name} must be from 1 to {largest:,}, got {value}')

  @property
  def longest(self) -> int:
    """The positions that the model can be used for: `max_length`, or what YaRN stretches it to."""
    scaling = self.rope_scaling
    if isinstance(scaling, YarnScaling):
      return max(self.max_length, int(scaling.factor * scaling.original_max_length))
    return self.max_length

  @property
  def group_size(self) -> int:
    """Query heads that share one key/value head."""
    return self.num_heads // self.num_kv_heads

  @property
  def runs(self) -> tuple[tuple[tuple[str, ...], int], ...]:
    """`layers`, or the one run of dense layers that () stands for."""
    return self.layers or ((('dense',), self.num_layers),)

  @property
  def kinds(self) -> tuple[str, ...]:
    """The kind of each layer, in order."""
    return sum((pattern * repeats for pattern, repeats in self.runs), ())

  def to_dict(self) -> dict:
    """The fields as plain values, for JSON; `from_dict` reads them."""
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, fields: dict) -> 'ModelConfig':
    """The config that `to_dict` turned into these fields, possibly stored as JSON in between.

    Args:
      fields: what `to_dict` returned.

    Raises:
      UserError: they describe no model.
    """
    try:
      fields = dict(fields)
      if scaling := fields.get('rope_scaling'):
        classes = {c.kind: c for c in (RopeScaling, LinearScaling, YarnScaling)}
        fields['rope_scaling'] = classes[scaling.get('kind', 'llama3')](**scaling)
      for name, kind in (('experts', Experts), ('latent', Latent)):
        fields[name] = kind(**fields[name]) if fields.get(name) else None
      fields['layers'] = tuple((tuple(p), repeats) for p, repeats in fields.get('layers', ()))
      return cls(**fields)
    except (TypeError, KeyError, AttributeError, ValueError, ZeroDivisionError) as error:
      raise UserError(f'The fields of a model are damaged ({str(error)[:200]}): run again what '
                      'wrote them.') from None


def as_runs(kinds: Sequence[str], longest: int = 8) -> tuple[tuple[tuple[str, ...], int], ...]:
  """Writes a sequence of kinds of layers as few runs of (pattern, repeats).

  Greedy: each run is the one that covers most of the remaining layers; among equals, the one with
  the shortest pattern.

  Args:
    kinds: the kind of each layer.
    longest: the most kinds that a pattern may have.
  """
  left, result = tuple(kinds), []
  while left:
    runs = [(left[:size], _repeats(left, size)) for size in range(1, min(longest, len(left)) + 1)]
    pattern, repeats = max(
        (run for run in runs if len(run[0]) == 1 or run[1] > 1),
        key=lambda run: (len(run[0]) * run[1], -len(run[0])))
    result.append((pattern, repeats))
    left = left[len(pattern) * repeats:]
  return tuple(result)


def _repeats(kinds: tuple[str, ...], size: int) -> int:
  """How often the first `size` kinds follow each other at the beginning."""
  count = 1
  while kinds[count * size:(count + 1) * size] == kinds[:size]:
    count += 1
  return count


def _attention_params(c: ModelConfig) -> int:
  if c.latent is None:
    heads = c.num_heads + 2 * c.num_kv_heads
    count = c.width * c.head_dim * (heads + c.num_heads)
    count += c.head_dim * heads if c.qkv_bias else 0
    return count + (2 * c.head_dim if c.qk_norm else 0)
  latent, queries = c.latent, c.num_heads * c.head_dim
  count = c.width * (latent.rank + latent.rope_dim) + latent.rank
  count += latent.rank * c.num_heads * (c.head_dim - latent.rope_dim + latent.value_dim)
  count += c.num_heads * latent.value_dim * c.width
  if latent.query_rank is None:
    return count + c.width * queries
  return count + c.width * latent.query_rank + latent.query_rank + latent.query_rank * queries


def _layer_params(c: ModelConfig, kind: str, *, active: bool) -> int:
  count = _attention_params(c) + c.width * (4 if c.post_norms else 2)
  if kind != 'experts':
    return count + 3 * c.width * c.mlp_width
  e = c.experts
  assert e is not None
  count += c.width * e.count + (e.count if e.routing == 'sigmoid' else 0)
  return count + 3 * c.width * e.width * ((e.per_token if active else e.count) + e.shared)


def num_params(config: ModelConfig, *, active: bool = False) -> int:
  """Number of parameters; a tied embedding counts once, a prediction head is included.

  Args:
    config: the architecture.
    active: count only those that one token's forward pass uses: `per_token` of the experts, and no
      prediction head.
  """
  c = config
  count = sum(_layer_params(c, kind, active=active) for kind in c.kinds)
  if c.prediction_head and not active:
    kind = c.kinds[-1]
    count += _layer_params(c, kind, active=False) + 2 * c.width ** 2 + 3 * c.width
  return count + c.width + c.vocab_size * c.width * (1 if c.tied_embedding else 2)


def flops_per_token(config: ModelConfig, context: float) -> float:
  """Floating-point operations of a token's forward pass: 2·N + 2·heads·(d_k + d_v)·Σ context.

  The sum is over layers. N counts active parameters without the embedding look-up (a tied matrix
  counts once, as the unembedding); d_k and d_v are the widths of a head's key and value. A training
  token costs three times as much. Latent attention is counted in the form used in training; the
  absorbed form used in decoding takes more operations and reads fewer bytes.

  Args:
    config: the architecture.
    context: mean number of positions attended to, including the token's own; in local layers at
      most the window counts.
  """
  c = config
  matmuls = num_params(c, active=True) - (0 if c.tied_embedding else c.vocab_size * c.width)
  value_dim = c.latent.value_dim if c.latent else c.head_dim
  seen = sum(min(context, c.window) if kind == 'local' and c.window is not None else context
             for kind in c.kinds)
  return 2.0 * matmuls + 2.0 * c.num_heads * (c.head_dim + value_dim) * seen
