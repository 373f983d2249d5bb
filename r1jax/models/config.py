"""The shape of a decoder-only transformer, its layers, and how many parameters it has."""
from collections.abc import Sequence
import dataclasses

KINDS = ('dense', 'local', 'experts')


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """Llama 3's stretching of the rotary frequencies (arXiv:2407.21783; transformers' `llama3`)."""
  factor: float = 8.0
  low_frequency_factor: float = 1.0
  high_frequency_factor: float = 4.0
  original_max_length: int = 8192
  kind: str = 'llama3'


@dataclasses.dataclass(frozen=True)
class LinearScaling:
  """All rotary frequencies divided by one factor (the larger Gemma 3)."""
  factor: float = 8.0
  kind: str = 'linear'


@dataclasses.dataclass(frozen=True)
class YarnScaling:
  """YaRN (arXiv:2309.00071) as DeepSeek-V3 has it.

  Frequencies that turn more than `fast_turns` times within the original length stay, those under
  `slow_turns` are divided by `factor`. Attention scores are multiplied by m(mscale_all_dim)², the
  rotated parts of queries and keys by m(mscale)/m(mscale_all_dim), m(s) = 0.1·s·ln(factor) + 1.
  """
  factor: float = 40.0
  original_max_length: int = 4096
  fast_turns: float = 32.0
  slow_turns: float = 1.0
  mscale: float = 1.0
  mscale_all_dim: float = 1.0
  kind: str = 'yarn'


@dataclasses.dataclass(frozen=True)
class Experts:
  """The mixture of experts in the layers of kind 'experts'.

  A token's router scores are a softmax over all experts, or sigmoids; the `per_token` best are
  taken, by score plus the balancing bias where `routing` is 'sigmoid', and only from the
  `groups_per_token` groups whose two best add up highest. Their outputs are weighted by the
  scores alone, with `normalise` divided by their sum, times `scale`.
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
      raise ValueError(f'routing={self.routing!r} is unknown: set \'softmax\' or \'sigmoid\'')
    if self.count % self.groups or (self.groups > 1 and self.count < 2 * self.groups):
      raise ValueError(f'count={self.count} experts do not make groups={self.groups} equal groups '
                       'of two or more: change one of them')
    if self.groups_per_token > self.groups:
      raise ValueError(f'groups_per_token={self.groups_per_token} is more than '
                       f'groups={self.groups}: make it at most that')
    if not 1 <= self.per_token <= self.count // self.groups * self.groups_per_token:
      raise ValueError(f'per_token={self.per_token} is not between 1 and the '
                       f'{self.count // self.groups * self.groups_per_token} experts that the '
                       'groups of a token have: change it')


@dataclasses.dataclass(frozen=True)
class Latent:
  """Latent attention (arXiv:2405.04434): the keys and values of all heads come from one latent.

  A head's query and key have `head_dim` numbers without position (`ModelConfig.head_dim` less
  `rope_dim`) and `rope_dim` rotated ones; the rotated key is shared by all heads.
  """
  rank: int                    # of the latent that keys and values come from
  rope_dim: int
  value_dim: int               # of a head
  query_rank: int | None = None
  interleaved: bool = True     # rotary pairs are neighbours, not halves


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """One transformer of the kinds that `families.FAMILIES` names.

  `family` names the checkpoint family whose tensor names an export uses; the mathematics is in
  the other fields alone. `layers` are runs of (pattern, repeats): a pattern is a tuple of kinds,
  'dense' (attention to all that precedes, one MLP), 'local' (attention to the last `window`
  positions, one MLP) or 'experts' (attention to all, a mixture of experts); () stands for
  `num_layers` dense ones. Raises ValueError where fields do not go together.
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
  max_length: int = 32_768     # positions the checkpoint was made for
  layers: tuple[tuple[tuple[str, ...], int], ...] = ()
  experts: Experts | None = None
  latent: Latent | None = None
  window: int | None = None               # positions that a local layer sees, its own included
  local_rope_theta: float | None = None   # of local layers, which are never stretched
  query_scale: float | None = None        # scores are divided by its root; None: head_dim
  offset_norms: bool = False              # norms multiply by 1 + scale
  post_norms: bool = False                # norms behind attention and MLP too
  scaled_embedding: bool = False          # embeddings are multiplied by the root of width
  activation: str = 'silu'                # of the MLP; or 'gelu_tanh'
  prediction_head: bool = False           # DeepSeek-V3's, for the token after the next

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(f'num_heads={self.num_heads} is not a multiple of '
                       f'num_kv_heads={self.num_kv_heads}: make it one')
    rope_dim = self.latent.rope_dim if self.latent else self.head_dim
    if rope_dim % 2:
      name = 'latent.rope_dim' if self.latent else 'head_dim'
      raise ValueError(f'{name}={rope_dim} is odd: rotary positions need an even one')
    unknown = [kind for kind in self.kinds if kind not in KINDS]
    if unknown:
      raise ValueError(f'layers={self.layers} has the kind {unknown[0]!r}: use {", ".join(KINDS)}')
    if len(self.kinds) != self.num_layers:
      raise ValueError(f'layers={self.layers} are {len(self.kinds)}, but '
                       f'num_layers={self.num_layers}: make them agree')
    for kind, field in (('experts', 'experts'), ('local', 'window')):
      if (kind in self.kinds) != (getattr(self, field) is not None):
        raise ValueError(f'{field}={getattr(self, field)} does not go with layers={self.layers}: '
                         f'set it exactly if there are layers of kind {kind!r}')
    if self.latent and (self.num_kv_heads != self.num_heads or self.qkv_bias or self.qk_norm
                        or 'local' in self.kinds or self.latent.rope_dim >= self.head_dim):
      raise ValueError('latent attention has num_kv_heads = num_heads, rope_dim under head_dim, '
                       'neither qkv_bias nor qk_norm, and no local layers: mend these fields')
    if self.activation not in ('silu', 'gelu_tanh'):
      raise ValueError(f'activation={self.activation!r} is unknown: set \'silu\' or \'gelu_tanh\'')

  @property
  def group_size(self) -> int:
    """Query heads that share one key/value head."""
    return self.num_heads // self.num_kv_heads

  @property
  def runs(self) -> tuple[tuple[tuple[str, ...], int], ...]:
    """`layers`, written out where they are ()."""
    return self.layers or ((('dense',), self.num_layers),)

  @property
  def kinds(self) -> tuple[str, ...]:
    """The kind of each layer, in order."""
    return sum((pattern * repeats for pattern, repeats in self.runs), ())

  def to_dict(self) -> dict:
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, fields: dict) -> 'ModelConfig':
    """The config that `to_dict` gave, also after a passage through JSON."""
    fields = dict(fields)
    if scaling := fields.get('rope_scaling'):
      classes = {c.kind: c for c in (RopeScaling, LinearScaling, YarnScaling)}
      fields['rope_scaling'] = classes[scaling.get('kind', 'llama3')](**scaling)
    for name, kind in (('experts', Experts), ('latent', Latent)):
      fields[name] = kind(**fields[name]) if fields.get(name) else None
    fields['layers'] = tuple((tuple(p), repeats) for p, repeats in fields.get('layers', ()))
    return cls(**fields)


def as_runs(kinds: Sequence[str], longest: int = 8) -> tuple[tuple[tuple[str, ...], int], ...]:
  """Kinds of layers as few (pattern, repeats): always the pattern that covers most of what is left.

  A pattern has at most `longest` kinds; of equals the shortest is taken.
  """
  kinds, result = tuple(kinds), []
  while kinds:
    def repeats(size):
      count = 1
      while kinds[count * size:(count + 1) * size] == kinds[:size]:
        count += 1
      return count
    sizes = [s for s in range(1, min(longest, len(kinds)) + 1) if s == 1 or repeats(s) > 1]
    size = max(sizes, key=lambda s: (s * repeats(s), -s))
    result.append((kinds[:size], repeats(size)))
    kinds = kinds[size * repeats(size):]
  return tuple(result)


def _attention_params(c: ModelConfig) -> int:
  if c.latent is None:
    heads = c.num_heads + 2 * c.num_kv_heads
    count = c.width * c.head_dim * (heads + c.num_heads)
    count += c.head_dim * heads if c.qkv_bias else 0
    return count + (2 * c.head_dim if c.qk_norm else 0)
  l, queries = c.latent, c.num_heads * c.head_dim
  count = c.width * (l.rank + l.rope_dim) + l.rank
  count += l.rank * c.num_heads * (c.head_dim - l.rope_dim + l.value_dim)
  count += c.num_heads * l.value_dim * c.width
  if l.query_rank is None:
    return count + c.width * queries
  return count + c.width * l.query_rank + l.query_rank + l.query_rank * queries


def _layer_params(c: ModelConfig, kind: str, *, active: bool) -> int:
  count = _attention_params(c) + c.width * (4 if c.post_norms else 2)
  if kind != 'experts':
    return count + 3 * c.width * c.mlp_width
  e = c.experts
  count += c.width * e.count + (e.count if e.routing == 'sigmoid' else 0)
  return count + 3 * c.width * e.width * ((e.per_token if active else e.count) + e.shared)


def num_params(config: ModelConfig, *, active: bool = False) -> int:
  """All parameters, a tied embedding counted once, the prediction head included if there is one.

  With `active`, those that one token's forward pass uses: of the experts only `per_token`, and no
  prediction head.
  """
  c = config
  count = sum(_layer_params(c, kind, active=active) for kind in c.kinds)
  if c.prediction_head and not active:
    kind = c.kinds[-1]
    count += _layer_params(c, kind, active=False) + 2 * c.width ** 2 + 3 * c.width
  return count + c.width + c.vocab_size * c.width * (1 if c.tied_embedding else 2)


def flops_per_token(config: ModelConfig, context: float) -> float:
  """Floating-point operations of one token's forward pass: 2·N + 2·heads·(d_k + d_v)·Σ context.

  The sum is over layers. N counts active parameters and leaves out the embedding look-up (a tied
  matrix counts once, as the unembedding); d_k and d_v are a head's width in keys and values;
  `context` is the mean number of positions attended to, in local layers at most the window. A training token costs three times
  as many. Latent attention is counted as it trains; decoding in its absorbed form costs more
  operations and fewer bytes.
  """
  c = config
  matmuls = num_params(c, active=True) - (0 if c.tied_embedding else c.vocab_size * c.width)
  value_dim = c.latent.value_dim if c.latent else c.head_dim
  seen = sum(min(context, c.window) if kind == 'local' else context for kind in c.kinds)
  return 2.0 * matmuls + 2.0 * c.num_heads * (c.head_dim + value_dim) * seen
