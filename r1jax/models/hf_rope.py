"""Rotary positions in a Hugging Face `config.json`, in the spelling of transformers 4 or 5."""
import math
from typing import Any

from r1jax.models.config import LinearScaling, RopeScaling, YarnScaling
from r1jax.models.hf_fields import number, refuse

_SCALINGS: dict[str, tuple[Any, dict[str, str]]] = {
    'llama3': (RopeScaling, {
        'factor': 'factor',
        'low_frequency_factor': 'low_freq_factor',
        'high_frequency_factor': 'high_freq_factor',
        'original_max_length': 'original_max_position_embeddings',
    }),
    'linear': (LinearScaling, {'factor': 'factor'}),
    'yarn': (YarnScaling, {
        'factor': 'factor',
        'original_max_length': 'original_max_position_embeddings',
        'fast_turns': 'beta_fast',
        'slow_turns': 'beta_slow',
    }),
}
_THETAS = {'gemma3_text': 1_000_000.0, 'ministral3': 1_000_000.0, 'smollm3': 2_000_000.0}
# What Ministral 3 has where config.json says nothing.
_MINISTRAL3 = {
    'rope_type': 'yarn', 'factor': 16.0, 'original_max_position_embeddings': 16384,
    'mscale': 1.0, 'mscale_all_dim': 1.0, 'llama_4_scaling_beta': 0.1}


def read(path, raw: dict, family: str) -> dict:
  """The settings of rotary positions of all layers, or of those with full attention.

  Args:
    path: of `config.json`, for messages.
    raw: its content.
    family: its model_type.
  """
  field = 'rope_scaling' if raw.get('rope_scaling') else 'rope_parameters'
  rope = raw.get(field) or (_MINISTRAL3 if family == 'ministral3' else {})
  if isinstance(rope, dict) and family == 'gemma3_text':
    own = rope.get('full_attention')
    rope = own if isinstance(own, dict) else {
        name: value for name, value in rope.items() if name != 'sliding_attention'}
  if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
    refuse(path, field, rope, 'give one set of rotary settings for all layers')
  fields = ('rope_theta', 'partial_rotary_factor')
  result = {'rope_theta': _THETAS.get(family, 10_000.0)} | {
      name: raw[name] for name in fields if raw.get(name) is not None} | {
      name: value for name, value in rope.items()
      if not (name == 'rope_theta' and name in raw and family == 'gemma3_text')}
  if result.get('partial_rotary_factor') not in (None, 1):
    refuse(path, 'partial_rotary_factor', result['partial_rotary_factor'],
           'use a checkpoint without it')
  return result


def theta(path, rope: dict) -> float:
  """The base of the frequencies."""
  value = number(path, rope, 'rope_theta', float)
  if value <= 1:
    refuse(path, 'rope_theta', value, 'give a number above 1')
  return value


def local_theta(path, raw: dict) -> float:
  """Gemma 3's base for layers with sliding attention."""
  rope = raw.get('rope_parameters')
  nested = rope.get('sliding_attention') if isinstance(rope, dict) else None
  local = nested if isinstance(nested, dict) else {'rope_theta': raw.get('rope_local_base_freq')}
  if local.get('rope_type', 'default') != 'default':
    refuse(path, 'rope_type', local['rope_type'], 'use \'default\' for sliding attention')
  return theta(path, {'rope_theta': 10_000.0} | {
      name: value for name, value in local.items() if value is not None})


def scaling(path, rope: dict, max_length: int) -> RopeScaling | LinearScaling | YarnScaling | None:
  """How frequencies are stretched.

  Args:
    path: of `config.json`, for messages.
    rope: what `read` returned.
    max_length: of the model; `original_max_position_embeddings` where that is not given.
  """
  kind = rope.get('rope_type', rope.get('type', 'default'))
  if kind in ('default', None):
    return None
  if kind == 'dynamic':
    refuse(path, 'rope_type', kind, 'it changes nothing up to max_position_embeddings, so remove '
           'it if no sequence is longer')
  if not isinstance(kind, str) or kind not in _SCALINGS:
    refuse(path, 'rope_type', kind, 'use a checkpoint with ' + ' or '.join(
        repr(k) for k in ('default', *_SCALINGS)))
  rope = {'original_max_position_embeddings': max_length} | {
      name: value for name, value in rope.items() if value is not None}
  cls, fields = _SCALINGS[kind]
  extra = {}
  if kind == 'yarn':
    original = number(path, rope, 'original_max_position_embeddings', int)
    rope = {'beta_fast': 32.0, 'beta_slow': 1.0, 'factor': max_length / original} | rope
    extra = _yarn(path, rope)
  result = cls(**extra, **{
      ours: number(path, rope, theirs, int if ours == 'original_max_length' else float)
      for ours, theirs in fields.items()})
  for low, high in (('low_frequency_factor', 'high_frequency_factor'),
                    ('slow_turns', 'fast_turns')):
    if hasattr(result, low) and getattr(result, low) >= getattr(result, high):
      refuse(path, fields[low], getattr(result, low),
             f'it must be below {fields[high]}={getattr(result, high)}')
  return result


def _yarn(path, rope: dict) -> dict:
  """The fields of YarnScaling that say how attention's scores change.

  As in transformers, a lone mscale does not count, and a lone mscale_all_dim only for the scores
  of latent attention.
  """
  factor = number(path, rope, 'factor', float)
  attention_factor = (None if rope.get('attention_factor') is None else
                      number(path, rope, 'attention_factor', float))
  given = [rope.get(name) not in (None, 0) for name in ('mscale', 'mscale_all_dim')]
  mscales = dict(mscale=1.0, mscale_all_dim=0.0)
  if given[1]:
    mscales['mscale_all_dim'] = number(path, rope, 'mscale_all_dim', float)
    if given[0]:
      mscales['mscale'] = number(path, rope, 'mscale', float)
    elif attention_factor is None:
      attention_factor = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
  truncate = rope.get('truncate', True)
  if not isinstance(truncate, bool):
    refuse(path, 'truncate', truncate, 'use true or false')
  growth = rope.get('llama_4_scaling_beta')
  return mscales | dict(
      truncate=truncate,
      attention_factor=attention_factor,
      query_growth=number(path, rope, 'llama_4_scaling_beta', float) if growth else 0.0)


def scaling_json(scaling: RopeScaling | LinearScaling | YarnScaling | None) -> dict | None:
  """What `scaling` reads."""
  if scaling is None:
    return None
  result = {'rope_type': scaling.kind, **{
      theirs: getattr(scaling, ours) for ours, theirs in _SCALINGS[scaling.kind][1].items()}}
  if isinstance(scaling, YarnScaling):
    fields = {'attention_factor': scaling.attention_factor,
              'truncate': None if scaling.truncate else False,
              'llama_4_scaling_beta': scaling.query_growth or None}
    if scaling.mscale_all_dim:
      fields |= {'mscale': scaling.mscale, 'mscale_all_dim': scaling.mscale_all_dim}
    result |= {name: value for name, value in fields.items() if value is not None}
  return result
