"""The presets have the sizes that their authors publish."""
import pytest

from r1jax.models import PRESETS, num_params


@pytest.mark.parametrize('name, published', [
    ('miniature', 853_376), ('miniature_small', 230_208), ('smollm2_135m', 134_515_008),
    ('qwen3_0_6b', 596_049_920), ('qwen2_5_1_5b', 1_543_714_304),
    ('qwen2_5_7b', 7_615_616_512),
    ('qwen3_8b', 8_190_735_360), ('llama3_8b', 8_030_261_248), ('qwen3_30b_a3b', 30_532_122_624),
    ('smollm3_3b', 3_075_098_624), ('mistral_7b', 7_248_023_552), ('gemma3_270m', 268_098_176),
    ('gemma3_1b', 999_885_952), ('deepseek_v3', 671_026_419_200)])
def test_presets_have_the_published_numbers_of_parameters(name, published):
  assert num_params(PRESETS[name]) == published


def test_active_parameters_are_the_published_ones():
  # "30B-A3B": 3.3 billion; DeepSeek-V3: 37 billion, of which the embedding's rows are not used.
  assert num_params(PRESETS['qwen3_30b_a3b'], active=True) == pytest.approx(3.35e9, rel=0.01)
  deepseek = PRESETS['deepseek_v3']
  used = num_params(deepseek, active=True) - deepseek.vocab_size * deepseek.width
  assert used == pytest.approx(36.6e9, rel=0.01)
