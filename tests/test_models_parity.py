"""Logits, greedy decoding and exported folders against transformers + torch."""
import json

from decoding_caches import advanced, decoding_cache
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from r1jax.models import (
    RopeScaling,
    build,
    hf_config,
    huggingface,
    rotary,
    transformer,
)

torch = pytest.importorskip('torch', reason='parity is measured against torch')
transformers = pytest.importorskip('transformers', reason='parity is measured against transformers')
torch.set_num_threads(1)

SIZES = dict(
    vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=3,
    num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=2048,
    bos_token_id=None, eos_token_id=None, attn_implementation='eager')
LLAMA3 = dict(
    rope_type='llama3', rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=64)
EXPERTS = dict(num_experts_per_tok=2, moe_intermediate_size=16)
LATENT = dict(
    kv_lora_rank=24, qk_rope_head_dim=8, qk_nope_head_dim=12, v_head_dim=10,
    first_k_dense_replace=1)
YARN = dict(
    rope_type='yarn', rope_theta=1e4, factor=40.0, beta_fast=32, beta_slow=1, mscale=1.0,
    mscale_all_dim=0.7, original_max_position_embeddings=64)

CHECKPOINTS = {
    'llama': lambda: transformers.LlamaConfig(
        **SIZES, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters=dict(rope_type='default', rope_theta=1e5)),
    'llama3_rope': lambda: transformers.LlamaConfig(
        **SIZES, tie_word_embeddings=False, head_dim=16, rope_parameters=LLAMA3),
    'qwen2': lambda: transformers.Qwen2Config(**SIZES, tie_word_embeddings=True),
    'qwen2_free': lambda: transformers.Qwen2Config(**SIZES, tie_word_embeddings=False),
    'qwen3': lambda: transformers.Qwen3Config(
        **SIZES, head_dim=20, tie_word_embeddings=True,
        rope_parameters=dict(rope_type='default', rope_theta=1e6)),
    'qwen3_free': lambda: transformers.Qwen3Config(**SIZES, head_dim=20, tie_word_embeddings=False),
    'qwen3_moe': lambda: transformers.Qwen3MoeConfig(
        **SIZES, **EXPERTS, head_dim=20, num_experts=7, norm_topk_prob=True,
        rope_parameters=dict(rope_type='default', rope_theta=1e6)),
    'qwen3_moe_mixed': lambda: transformers.Qwen3MoeConfig(
        **SIZES, **EXPERTS, head_dim=16, num_experts=4, norm_topk_prob=False, mlp_only_layers=[1]),
    'gemma3': lambda: transformers.Gemma3TextConfig(
        **SIZES | dict(num_hidden_layers=8), head_dim=16, sliding_window=5, pad_token_id=None,
        query_pre_attn_scalar=24, rope_parameters=dict(
            sliding_attention=dict(rope_type='default', rope_theta=100.0),
            full_attention=dict(rope_type='linear', factor=8.0, rope_theta=1e4)),
        layer_types=['sliding_attention', 'sliding_attention', 'full_attention'] * 2
        + ['sliding_attention'] * 2),
    'deepseek_v3': lambda: transformers.DeepseekV3Config(
        **SIZES | dict(num_key_value_heads=6), **EXPERTS, **LATENT, q_lora_rank=20, n_group=4,
        topk_group=2, n_routed_experts=12, rope_parameters=YARN),
    'deepseek_v3_plain': lambda: transformers.DeepseekV3Config(
        **SIZES | dict(num_key_value_heads=6), **EXPERTS, **LATENT, q_lora_rank=None, n_group=1,
        topk_group=1, n_routed_experts=5, n_shared_experts=2, norm_topk_prob=False,
        rope_interleave=False),
    'qwen2_yarn': lambda: transformers.Qwen2Config(
        **SIZES, tie_word_embeddings=True, rope_parameters=dict(
            rope_type='yarn', rope_theta=1e6, factor=4.0, beta_fast=32.0, beta_slow=1.0,
            original_max_position_embeddings=64)),
    'qwen3_yarn': lambda: transformers.Qwen3Config(
        **SIZES, head_dim=20, tie_word_embeddings=True, rope_parameters=dict(
            rope_type='yarn', rope_theta=1e4, factor=40.0, original_max_position_embeddings=64,
            attention_factor=1.3, beta_fast=8.0, beta_slow=0.5)),
    'llama_yarn': lambda: transformers.LlamaConfig(
        **SIZES, tie_word_embeddings=False, rope_parameters=YARN | dict(truncate=False)),
    'llama_linear': lambda: transformers.LlamaConfig(
        **SIZES, tie_word_embeddings=False,
        rope_parameters=dict(rope_type='linear', rope_theta=1e4, factor=4.0)),
    'mistral': lambda: transformers.MistralConfig(
        **SIZES, head_dim=12, sliding_window=5, tie_word_embeddings=False),
    'mistral_yarn': lambda: transformers.MistralConfig(
        **SIZES, sliding_window=5, tie_word_embeddings=False, rope_parameters=YARN),
    'ministral': lambda: transformers.MinistralConfig(
        **SIZES, head_dim=12, sliding_window=5, tie_word_embeddings=False,
        layer_types=['sliding_attention', 'full_attention', 'sliding_attention']),
    'ministral3': lambda: transformers.Ministral3Config(
        **SIZES, head_dim=12, rope_parameters=YARN | dict(
            original_max_position_embeddings=16, mscale_all_dim=1.0, llama_4_scaling_beta=0.3)),
    'smollm3': lambda: transformers.SmolLM3Config(
        **SIZES | dict(num_hidden_layers=5), pad_token_id=None, tie_word_embeddings=True,
        rope_parameters=dict(rope_type='default', rope_theta=2e6)),
    'qwen3_window': lambda: transformers.Qwen3Config(
        **SIZES, head_dim=20, tie_word_embeddings=False, use_sliding_window=True,
        sliding_window=4, max_window_layers=1),
}
WINDOWED = ('gemma3', 'mistral', 'mistral_yarn', 'ministral', 'qwen3_window')


# Of text and images: transformers' classes of model and configuration, and the text model.
IMAGES = dict(
    hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
    image_size=28, patch_size=14)
WRAPPERS = {
    'gemma3': lambda: transformers.Gemma3ForConditionalGeneration(transformers.Gemma3Config(
        text_config=CHECKPOINTS['gemma3']().to_dict(), vision_config=IMAGES, mm_tokens_per_image=4,
        image_token_index=90, boi_token_index=91, eoi_token_index=92)),
    'mistral3': lambda: transformers.Mistral3ForConditionalGeneration(transformers.Mistral3Config(
        text_config=CHECKPOINTS['ministral3']().to_dict() | dict(model_type='ministral3'),
        vision_config=IMAGES | dict(model_type='pixtral', head_dim=8), image_token_index=90,
        tie_word_embeddings=False)),
}


def gap(name):
  """Largest step between positions; windows of transformers count places, not positions."""
  return 2 if name in WINDOWED else 170


@pytest.fixture(scope='module')
def make_checkpoint(tmp_path_factory):
  """A random checkpoint by transformers, biases and norms random too: (folder, torch model)."""
  made = {}

  def make(name):
    if name not in made:
      torch.manual_seed(1)
      model = transformers.AutoModelForCausalLM.from_config(CHECKPOINTS[name]()).eval()
      with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
          if 'norm' in parameter_name:
            parameter.uniform_(0.5, 1.5)
          else:
            parameter.normal_(0, 0.5 if 'bias' in parameter_name else 0.15)
        for buffer_name, buffer in model.named_buffers():
          if buffer_name.endswith('e_score_correction_bias'):
            buffer.uniform_(-0.2, 0.2)
      folder = tmp_path_factory.mktemp(name)
      model.save_pretrained(folder)
      made[name] = folder, model
    return made[name]
  return make


def load(folder):
  config = huggingface.read_config(folder)
  return build(config), huggingface.load_params(folder, config)


def logits(model, params, tokens, positions, segment_ids):
  @jax.jit
  def run(params):
    hidden, _, _ = model.apply(params, tokens, positions=positions, segment_ids=segment_ids)
    return model.unembed(params, hidden)
  return np.asarray(run(params))


@pytest.mark.parametrize('name', CHECKPOINTS)
def test_logits_equal_those_of_transformers_with_padding_and_given_positions(name, make_checkpoint):
  folder, reference = make_checkpoint(name)
  model, params = load(folder)
  rng = np.random.default_rng(2)
  tokens = rng.integers(0, SIZES['vocab_size'], (3, 12))
  lengths = np.array([12, 7, 1])
  # Gaps between positions: distances up to 2,000 reach every band of the llama3 scaling.
  positions = np.cumsum(rng.integers(1, gap(name), tokens.shape), axis=1)
  mask = np.arange(12) < lengths[:, None]
  ours = logits(model, params, tokens, positions, mask.astype(np.int32))
  with torch.no_grad():
    theirs = reference(
        torch.tensor(tokens), attention_mask=torch.tensor(mask).long(),
        position_ids=torch.tensor(positions)).logits.numpy()
  assert np.std(theirs) > 0.3
  np.testing.assert_allclose(ours[mask], theirs[mask], atol=1e-4, rtol=0)


@pytest.mark.parametrize('name', WRAPPERS)
@pytest.mark.parametrize('layout', ['transformers 5', 'transformers 4.52'])
def test_of_a_model_of_text_and_images_the_text_is_read(name, layout, tmp_path):
  torch.manual_seed(1)
  reference = WRAPPERS[name]().eval()
  with torch.no_grad():
    for parameter_name, parameter in reference.named_parameters():
      parameter.normal_(1 if 'norm' in parameter_name else 0, 0.15)
  reference.save_pretrained(tmp_path)
  if layout != 'transformers 5':   # the names within the model itself
    tensors = reference.state_dict()
    if reference.config.tie_word_embeddings:
      del tensors['lm_head.weight']
    save_file({key: tensor.numpy() for key, tensor in tensors.items()},
              tmp_path / 'model.safetensors')
  names = load_file(tmp_path / 'model.safetensors').keys()
  begins = 'language_model.model.' if layout == 'transformers 5' else 'model.language_model.'
  assert f'{begins}norm.weight' in names and any('vision_tower' in key for key in names)
  model, params = load(tmp_path)
  tokens = np.random.default_rng(2).integers(0, 90, (2, 12))
  positions = np.broadcast_to(np.arange(12), tokens.shape)
  ours = logits(model, params, tokens, positions, np.ones_like(tokens))
  with torch.no_grad():
    theirs = reference(input_ids=torch.tensor(tokens)).logits.numpy()
  assert np.std(theirs) > 0.3
  np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


def test_llama3_frequencies_equal_those_of_transformers_in_all_three_bands(make_checkpoint):
  folder, reference = make_checkpoint('llama3_rope')
  config = huggingface.read_config(folder)
  assert config.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 64)
  ours, plain = (
      np.asarray(rotary.frequencies(config.head_dim, config.rope_theta, scaling))
      for scaling in (config.rope_scaling, None))
  stretch = plain / ours
  assert stretch[0] == 1 and stretch[-1] == 8 and np.any((stretch > 1.5) & (stretch < 7.5))
  theirs = reference.model.rotary_emb.inv_freq.numpy()
  np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_greedy_cached_decoding_equals_generate(make_checkpoint):
  folder, reference = make_checkpoint('qwen3')
  model, params = load(folder)
  rng = np.random.default_rng(3)
  lengths, steps = np.array([9, 4]), 8
  prompts = rng.integers(0, SIZES['vocab_size'], (2, 9))
  first = rng.integers(0, SIZES['vocab_size'], (2, 3))   # three completions of each prompt

  @jax.jit
  def prefill(params, tokens, lengths):
    positions, segments = transformer.prompt_segments(tokens, lengths)
    _, new_kv, _ = model.apply(params, tokens, positions=positions, segment_ids=segments)
    return decoding_cache(model.config, new_kv, lengths, group_size=3, size=steps)

  @jax.jit
  def step(params, tokens, positions, cache):
    hidden, new_kv, _ = model.apply(
        params, tokens, positions=positions, segment_ids=jnp.ones_like(tokens), cache=cache)
    return jnp.argmax(model.unembed(params, hidden), -1), advanced(cache, new_kv)

  cache = prefill(params, prompts, lengths)
  tokens, decoded = jnp.asarray(first.reshape(6, 1)), []
  for i in range(steps):
    tokens, cache = step(params, tokens, jnp.repeat(lengths, 3)[:, None] + i, cache)
    decoded.append(np.asarray(tokens))

  rows = np.zeros((6, 10), int)   # as transformers wants them: padded on the left
  mask = np.arange(10) >= 9 - np.repeat(lengths, 3)[:, None]
  rows[mask] = np.concatenate([
      [*prompts[row // 3, :lengths[row // 3]], token] for row, token in enumerate(first.flat)])
  theirs = reference.generate(
      torch.tensor(rows), attention_mask=torch.tensor(mask).long(), max_new_tokens=steps,
      do_sample=False, pad_token_id=0)
  np.testing.assert_array_equal(np.concatenate(decoded, 1), theirs[:, 10:].numpy())


@pytest.mark.parametrize('name', CHECKPOINTS)
def test_transformers_loads_an_export_bit_for_bit(name, make_checkpoint, tmp_path):
  folder, reference = make_checkpoint(name)
  model, params = load(folder)
  huggingface.export(tmp_path / 'export', model.config, params, max_shard_bytes=40_000)
  assert len(list((tmp_path / 'export').glob('*.safetensors'))) > 2
  loaded, report = transformers.AutoModelForCausalLM.from_pretrained(
      tmp_path / 'export', output_loading_info=True)
  assert not any(report.values()), report
  for field in (*hf_config.FIELDS.values(), 'hidden_act', 'rope_parameters', 'model_type'):
    if name.startswith(('qwen2', 'smollm3')) and field == 'head_dim':
      continue   # these derive it
    if name == 'gemma3' and field == 'hidden_act':
      field = 'hidden_activation'
    assert getattr(loaded.config, field) == getattr(reference.config, field), field
  theirs, source = loaded.state_dict(), reference.state_dict()
  assert theirs.keys() == source.keys()
  for key, tensor in source.items():
    assert torch.equal(theirs[key], tensor), key
  assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == model.config.tied_embedding


def test_a_bfloat16_export_is_rounded_as_by_torch(make_checkpoint, tmp_path):
  folder, reference = make_checkpoint('qwen2')
  model, params = load(folder)
  huggingface.export(tmp_path / 'export', model.config, params, dtype='bfloat16')
  loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'export', dtype='auto')
  assert loaded.dtype == torch.bfloat16
  for key, tensor in reference.state_dict().items():
    assert torch.equal(loaded.state_dict()[key], tensor.to(torch.bfloat16)), key


@pytest.mark.parametrize('name', CHECKPOINTS)
def test_config_in_the_spelling_of_transformers_4_reads_the_same(name, make_checkpoint, tmp_path):
  raw = json.loads((make_checkpoint(name)[0] / 'config.json').read_text())
  rope = raw.pop('rope_parameters')
  if name == 'gemma3':
    raw['rope_local_base_freq'] = rope['sliding_attention']['rope_theta']
    rope = rope['full_attention']
  raw['rope_theta'] = rope.pop('rope_theta')
  raw['rope_scaling'] = None if rope['rope_type'] == 'default' else rope
  (tmp_path / 'config.json').write_text(json.dumps(raw))
  assert huggingface.read_config(tmp_path) == huggingface.read_config(make_checkpoint(name)[0])


def test_the_prediction_head_equals_that_of_transformers(make_checkpoint, tmp_path):
  """Read under its published names; fed with normed hidden states and the tokens that follow."""
  layers = pytest.importorskip('transformers.modeling_layers')
  if not hasattr(layers, 'MtpLayer'):
    pytest.skip('this version of transformers has no prediction heads')
  folder, reference = make_checkpoint('deepseek_v3')
  of_layer = type(reference.model.layers[-1])
  torch.manual_seed(3)
  head = layers.MtpLayer(reference.config, of_layer, type(reference.model.norm), 3).eval()
  with torch.no_grad():
    for name, parameter in head.named_parameters():
      parameter.uniform_(0.5, 1.5) if 'norm' in name else parameter.normal_(0, 0.15)
    head.mtp_block.mlp.gate.e_score_correction_bias.uniform_(-0.2, 0.2)

  tensors = load_file(folder / 'model.safetensors')
  for name, tensor in head.state_dict().items():
    name = name.removeprefix('mtp_block.').replace('post_norm', 'shared_head.norm')
    renamed = {name: tensor.numpy()}
    if name == 'mlp.experts.gate_up_proj':
      renamed = {f'mlp.experts.{i}.{part}_proj.weight': half
                 for i, both in enumerate(tensor.numpy())
                for part, half in zip(('gate', 'up'), np.split(both, 2))}
    elif name == 'mlp.experts.down_proj':
      renamed = {f'mlp.experts.{i}.down_proj.weight': t for i, t in enumerate(tensor.numpy())}
    tensors |= {f'model.layers.3.{key}': np.ascontiguousarray(t) for key, t in renamed.items()}
  save_file(tensors, tmp_path / 'model.safetensors')
  (tmp_path / 'config.json').write_text((folder / 'config.json').read_text())
  config = huggingface.read_config(tmp_path, prediction_head=True)
  model, params = build(config), huggingface.load_params(tmp_path, config)

  # Two documents in one row and a padded row; transformers has each by itself.
  tokens = np.random.default_rng(4).integers(0, SIZES['vocab_size'], (2, 12))
  segments = np.array([[1] * 7 + [2] * 5, [1] * 9 + [0] * 3])
  positions = np.array([[*range(7), *range(5)], [*range(12)]])

  @jax.jit
  def run(params):
    places = dict(positions=positions, segment_ids=segments)
    hidden, _, _ = model.apply(params, tokens, **places)
    hidden, targets, mask, aux = model.predict_ahead(params, hidden, tokens, **places)
    return model.unembed(params, hidden), targets, mask, aux
  ours, targets, mask, aux = jax.tree.map(np.asarray, run(params))
  assert aux['routing'].counts.shape == (1, 2, 12)
  np.testing.assert_array_equal(aux['routing'].tokens, [[10, 8]])
  seen = np.zeros_like(mask)
  for row, start, end in ((0, 0, 7), (0, 7, 12), (1, 0, 9)):
    document, size = torch.tensor(tokens[row:row + 1, start:end]), end - start - 1
    with torch.no_grad():
      hidden = reference.model(document).last_hidden_state[:, :-1]
      causal = torch.triu(torch.full((1, 1, size, size), -1e30), 1)
      theirs = reference.lm_head(head(
          reference.model.embed_tokens(document[:, 1:]), hidden,
          position_embeddings=reference.model.rotary_emb(hidden, torch.arange(size)[None]),
          attention_mask=causal, position_ids=torch.arange(size)[None], cache=None))[0].numpy()
    places = slice(start, end - 2)
    np.testing.assert_allclose(ours[row, places], theirs[:-1], atol=1e-4)
    np.testing.assert_array_equal(targets[row, places], tokens[row, start + 2:end])
    seen[row, places] = True
  np.testing.assert_array_equal(mask, seen)
