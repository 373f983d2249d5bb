"""The shape of a decoder-only transformer, and the published sizes."""
import dataclasses


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """Llama 3's stretching of the rotary frequencies (arXiv:2407.21783; transformers' `llama3`)."""
  factor: float = 8.0
  low_frequency_factor: float = 1.0
  high_frequency_factor: float = 4.0
  original_max_length: int = 8192


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """One transformer of the Llama 3, Qwen2/2.5, Qwen3 or SmolLM2 kind.

  `family` names the checkpoint family whose tensor names an export uses; the mathematics is in
  the other fields alone. Raises ValueError where the heads cannot be grouped.
  """
  family: str                  # 'llama', 'qwen2' or 'qwen3'
  vocab_size: int
  width: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_width: int
  rope_theta: float = 10_000.0
  rope_scaling: RopeScaling | None = None
  norm_epsilon: float = 1e-6
  qkv_bias: bool = False       # Qwen2
  qk_norm: bool = False        # Qwen3
  tied_embedding: bool = True
  max_length: int = 32_768     # positions the checkpoint was made for

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(f'num_heads={self.num_heads} is not a multiple of '
                       f'num_kv_heads={self.num_kv_heads}: make it one')
    if self.head_dim % 2:
      raise ValueError(f'head_dim={self.head_dim} is odd: rotary positions need an even one')

  @property
  def group_size(self) -> int:
    """Query heads that share one key/value head."""
    return self.num_heads // self.num_kv_heads

  def to_dict(self) -> dict:
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, fields: dict) -> 'ModelConfig':
    scaling = fields.get('rope_scaling')
    return cls(**{**fields, 'rope_scaling': RopeScaling(**scaling) if scaling else None})


def num_params(config: ModelConfig) -> int:
  """All parameters, a tied embedding counted once."""
  c, heads = config, config.num_heads + 2 * config.num_kv_heads
  attention = c.width * c.head_dim * (heads + c.num_heads)
  attention += c.head_dim * heads if c.qkv_bias else 0
  attention += 2 * c.head_dim if c.qk_norm else 0
  layer = attention + 3 * c.width * c.mlp_width + 2 * c.width
  return c.num_layers * layer + c.width + c.vocab_size * c.width * (1 if c.tied_embedding else 2)


def flops_per_token(config: ModelConfig, context: float) -> float:
  """Floating-point operations of one token's forward pass: 2·N + 4·layers·heads·head_dim·context.

  N leaves out the embedding look-up (a tied matrix counts once, as the unembedding); `context` is
  the mean number of positions attended to. A training token costs three times as many.
  """
  c = config
  matmuls = num_params(c) - (0 if c.tied_embedding else c.vocab_size * c.width)
  return 2.0 * matmuls + 4.0 * c.num_layers * c.num_heads * c.head_dim * context


PRESETS = {
    'miniature': ModelConfig(
        family='qwen3', vocab_size=512, width=128, num_layers=4, num_heads=4, num_kv_heads=2,
        head_dim=32, mlp_width=384, rope_theta=10_000.0, qk_norm=True, max_length=1024),
    'miniature_small': ModelConfig(    # what the miniature is distilled into
        family='qwen3', vocab_size=512, width=64, num_layers=4, num_heads=2, num_kv_heads=1,
        head_dim=32, mlp_width=192, rope_theta=10_000.0, qk_norm=True, max_length=1024),
    'smollm2_135m': ModelConfig(
        family='llama', vocab_size=49_152, width=576, num_layers=30, num_heads=9, num_kv_heads=3,
        head_dim=64, mlp_width=1536, rope_theta=100_000.0, norm_epsilon=1e-5, max_length=8192),
    'qwen3_0_6b': ModelConfig(
        family='qwen3', vocab_size=151_936, width=1024, num_layers=28, num_heads=16,
        num_kv_heads=8, head_dim=128, mlp_width=3072, rope_theta=1_000_000.0, qk_norm=True,
        max_length=40_960),
}
