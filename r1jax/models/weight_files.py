"""The safetensors of a Hugging Face folder: which file has which tensor, by its usual name."""
from collections.abc import Iterable
import contextlib
import re
from typing import NamedTuple

from r1jax.errors import UserError
from r1jax.models import safetensors_io
from r1jax.models.hf_fields import read_json
from r1jax.runtime import foreign_folders, storage

WEIGHTS, INDEX = 'model.safetensors', 'model.safetensors.index.json'

# How names begin in models of text and images -> how they do in models of text alone.
_TEXT = {'language_model.model.': 'model.', 'model.language_model.': 'model.',
         'language_model.lm_head.': 'lm_head.'}
# Parts of such models that are ignored.
_IMAGES = re.compile(r'(model\.)?(vision_tower|vision_model|multi_modal_projector)\.')
# How names begin where something wraps the model -> what that is, and what to do.
_WRAPPED = {
    'module.': ('PyTorch\'s parallel wrappers', 'save `model.module` instead'),
    '_orig_mod.': ('torch.compile', 'save `model._orig_mod` instead'),
    '_fsdp_wrapped_module.': ('FSDP', 'gather a full state and save that'),
    'base_model.model.': ('peft', 'merge the adapter with `merge_and_unload` and save the result'),
    'pretrained_model.': ('a value head of TRL', 'save `model.pretrained_model` instead'),
}
# How names end where weights are quantised, or an adapter stands beside them.
_ALTERED = {
    '.qweight': 'quantised by GPTQ or AWQ', '.absmax': 'quantised by bitsandbytes',
    '.weight_packed': 'quantised by compressed-tensors', '.weight_scale': 'quantised',
    '.biases': 'quantised by MLX', '.lora_A.weight': 'beside an adapter that is not merged',
    '.lora_A.default.weight': 'beside an adapter that is not merged'}
_CLASSIFIERS = ('score.', 'classifier.', 'v_head.', 'value_head.', 'reward_head.')


class Stored(NamedTuple):
  """Where a tensor is."""
  file: safetensors_io.File
  name: str   # in the file

  @property
  def entry(self) -> safetensors_io.Entry:
    """What the file's header says about it."""
    return self.file.entries[self.name]


def open_folder(folder: storage.Path, stack: contextlib.ExitStack) -> dict[str, Stored]:
  """Name of each tensor of the language model -> where it is.

  Tensors of a vision tower and its projector are left out.

  Args:
    folder: of a checkpoint.
    stack: closes the files.

  Raises:
    FileNotFoundError: there are no weights, or a shard is missing.
    UserError: the index or a file is damaged, or the weights are of something that wraps a model.
  """
  placed = _weight_map(folder)
  files = {}
  for file_name in dict.fromkeys(placed.values()):
    path = folder / file_name
    if not path.exists():
      raise FileNotFoundError(f'{path}, named in {INDEX}, is missing: download it again.')
    if note := foreign_folders.pointer(path):
      raise UserError(note)
    files[file_name] = stack.enter_context(safetensors_io.File(path))
  for name, file_name in placed.items():
    if name and name not in files[file_name].entries:
      raise UserError(f'{INDEX} places {name} in {folder / file_name}, which does not have '
                       'it: download both again.')
  found: dict[str, Stored] = {}
  for file in files.values():
    for name in file.entries:
      if name in found:
        raise UserError(f'{name} is in two files of {folder}, {found[name].file.path.name} and '
                        f'{file.path.name}: remove the one that {INDEX} does not name.')
      found[name] = Stored(file, name)
  _refuse_wrapped(folder, found)
  return _text_alone(found)


def _text_alone(found: dict[str, Stored]) -> dict[str, Stored]:
  """Drops the images' part of a model of text and images, and renames the rest."""
  if not any(name.startswith(tuple(_TEXT)) for name in found):
    return found
  result = {}
  for name, stored in found.items():
    if not _IMAGES.match(name):
      begin = next((b for b in _TEXT if name.startswith(b)), '')
      result[_TEXT.get(begin, '') + name.removeprefix(begin)] = stored
  return result


def _refuse_wrapped(folder: storage.Path, names: Iterable[str]) -> None:
  names = list(names)
  for begin, (what, fix) in _WRAPPED.items():
    if any(name.startswith(begin) for name in names):
      raise UserError(f'The tensors of {folder} begin with {begin!r}, as {what} leave them: {fix}.')
  for end, what in _ALTERED.items():
    if altered := next((name for name in names if name.endswith(end)), None):
      fix = ('merge it with `merge_and_unload` of peft' if 'adapter' in what else
             'name the model that they were made from, in bfloat16 or float32')
      raise UserError(f'{folder} has {altered}: its weights are {what}; {fix}.')
  if head := next((name for name in names if name.startswith(_CLASSIFIERS)), None):
    raise UserError(f'{folder} has {head}: it is a reward model or classifier, not a language '
                    'model; name the language model that it was made from.')
  if names and 'layers.0.input_layernorm.weight' in names:
    raise UserError(f'The tensors of {folder} lack the prefix \'model.\': it is a bare model '
                    'without its head; save the whole ...ForCausalLM.')


def _weight_map(folder: storage.Path) -> dict[str, str]:
  """Name of a tensor -> the file it should be in; for a single file only '' -> its name."""
  if (folder / WEIGHTS).exists():
    return {'': WEIGHTS}
  index = folder / INDEX
  if not index.exists():
    raise FileNotFoundError(
        f'{folder} has neither {WEIGHTS} nor {INDEX}; {foreign_folders.instead(folder)}.')
  weight_map = read_json(index).get('weight_map')
  if not isinstance(weight_map, dict) or not weight_map or not all(
      isinstance(f, str) for f in weight_map.values()):
    raise UserError(f'{index} has no weight_map: download it again.')
  for file_name in dict.fromkeys(weight_map.values()):
    if not file_name.endswith('.safetensors') or re.search(r'[\\/:\0]', file_name):
      raise UserError(f'{index} names the file {file_name[:200]!r}: only .safetensors files beside '
                      'the index are read; correct the index or use another copy.')
  return weight_map
