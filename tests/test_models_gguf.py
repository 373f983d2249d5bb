import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models import PRESETS, ModelConfig, build, families, streaming, transformer
from r1jax.models.gguf import load_gguf
from r1jax.tokenization import smollm2_path, tokenizer_from_gguf

gguf = pytest.importorskip('gguf', reason='GGUF files are read with the gguf package')

CONFIG = ModelConfig(
    family='llama', vocab_size=31, width=32, num_layers=2, num_heads=8, num_kv_heads=2, head_dim=8,
    mlp_width=64, rope_theta=1e5, norm_epsilon=1e-5, tied_embedding=True, max_length=256)


def random_params(config):
  shapes = jax.eval_shape(build(config).init, jax.random.key(0))
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)


def permute(rows, heads):
  """llama.cpp's conversion of query and key matrices (convert_hf_to_gguf.py, `permute`)."""
  return (rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
          .swapaxes(1, 2).reshape(rows.shape))


def write(path, config=CONFIG, *, tensor_type='F32', metadata=(), drop=(), architecture='llama'):
  """A GGUF file of random parameters, written with the gguf package's own names and keys."""
  writer = gguf.GGUFWriter(path, architecture)
  fields = dict(
      vocab_size=config.vocab_size, context_length=config.max_length,
      embedding_length=config.width, block_count=config.num_layers,
      feed_forward_length=config.mlp_width, head_count=config.num_heads,
      head_count_kv=config.num_kv_heads, key_length=config.head_dim,
      rope_dimension_count=config.head_dim, rope_freq_base=config.rope_theta,
      layer_norm_rms_eps=config.norm_epsilon)
  for name, value in (fields | dict(metadata)).items():
    if name not in drop:
      getattr(writer, f'add_{name}')(value)
  kind = gguf.GGMLQuantizationType[tensor_type]
  names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_layers)
  params = random_params(config)
  for name, tensor in families.tensors(config, families.FAMILIES['llama']).items():
    array = np.ascontiguousarray(streaming.extract(params, tensor))
    heads = {'query': config.num_heads, 'key': config.num_kv_heads}.get(tensor.role)
    if heads:
      array = permute(array, heads)
    name = names.get_name(name, try_suffixes=('.weight',))
    if name not in drop:
      if array.ndim > 1 and kind != gguf.GGMLQuantizationType.F32:
        writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
      else:
        writer.add_tensor(name, array)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return str(path), params


@pytest.mark.parametrize('tied', [True, False])
def test_what_llama_cpp_would_write_is_read_bit_for_bit(tied, tmp_path):
  config = ModelConfig(**CONFIG.to_dict() | {'tied_embedding': tied})
  path, params = write(tmp_path / 'a.gguf', config)
  loaded_config, loaded = load_gguf(path)
  assert loaded_config == config
  jax.tree.map(np.testing.assert_array_equal, loaded, params)


@pytest.mark.parametrize('tensor_type, error', [('F16', 1e-3), ('Q8_0', 0.02), ('Q4_1', 0.4)])
def test_quantised_tensors_are_put_back_to_within_their_rounding(tensor_type, error, tmp_path):
  path, params = write(tmp_path / 'a.gguf', tensor_type=tensor_type)
  loaded = load_gguf(path)[1]
  difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), loaded, params)
  assert 0 < max(jax.tree.leaves(difference)) < error
  assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype('float32')}


@pytest.mark.parametrize('change, words', [
    (dict(architecture='qwen2'), "general.architecture='qwen2'"),
    (dict(drop=('block_count',)), 'has no llama.block_count: download'),
    (dict(metadata={'rope_dimension_count': 4}), 'rope.dimension_count=4, but only 8 is supported'),
    (dict(metadata={'rope_scaling_type': gguf.RopeScalingType.YARN}),
     "rope.scaling.type='yarn', but only 'none' is supported"),
    (dict(metadata={'block_count': 1}), r'unexpected: blk\.1\.attn_norm\.weight, .* and 6 more'),
    (dict(drop=('blk.1.ffn_up.weight',)), r'missing: blk\.1\.ffn_up\.weight\)'),
    (dict(metadata={'feed_forward_length': 32}), r'wrong shape: blk\.0\.ffn_gate\.\S+ \[64, 32\]'),
])
def test_what_does_not_fit_is_named(change, words, tmp_path):
  path, _ = write(tmp_path / 'a.gguf', **change)
  with pytest.raises(ValueError, match=words):
    load_gguf(path)


@pytest.mark.parametrize('keep', [0, 3, 20, 150, 400, 5_000, -40])
def test_a_torn_file_is_named(keep, tmp_path):
  path, _ = write(tmp_path / 'a.gguf')
  content = (tmp_path / 'a.gguf').read_bytes()
  (tmp_path / 'a.gguf').write_bytes(content[:keep])
  with pytest.raises(
      ValueError, match='a.gguf is truncated or not a GGUF file .*: download it again'):
    load_gguf(path)


def test_an_absent_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='a.gguf does not exist: correct the path'):
    load_gguf(str(tmp_path / 'a.gguf'))


@pytest.mark.slow
def test_smollm2_predicts_english():
  """With query and key rows as llama.cpp permutes them the loss is about one nat higher."""
  try:
    path = smollm2_path()
  except FileNotFoundError as error:
    pytest.skip(str(error))
  config, params = load_gguf(path)
  assert config == PRESETS['smollm2_135m']
  text = ('The capital of France is Paris, and the capital of Germany is Berlin. Photosynthesis is '
          'the process by which green plants turn carbon dioxide and water into sugar and oxygen.')
  tokens = np.array([tokenizer_from_gguf(path).encode(text)])
  model = build(config)

  @jax.jit
  def nll(params):
    positions, segments = transformer.prompt_segments(tokens, np.array([tokens.size]))
    hidden, _, _ = model.apply(params, tokens, positions=positions, segment_ids=segments)
    logprobs = jax.nn.log_softmax(model.unembed(params, hidden[:, :-1]))
    return -jnp.take_along_axis(logprobs, tokens[:, 1:, None], -1).mean()

  assert nll(params) < 2.3
