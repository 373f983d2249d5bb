"""What a folder is that a model or tokenizer cannot be read from, in words that say what to do."""
from collections.abc import Sequence
import json
from typing import Any

from r1jax.runtime import storage

_PICKLES = ('.bin', '.pt', '.pth', '.ckpt', '.pkl')
_POINTER = b'version https://git-lfs'
_POINTER_BYTES = 1024   # pointers are shorter
# Ends of file names -> the format that they belong to.
_FORMATS = {
    '.onnx': 'an ONNX model', '.tflite': 'a TensorFlow Lite model', '.h5': 'TensorFlow weights',
    '.msgpack': 'Flax weights', '.npz': 'NumPy weights, as MLX writes them',
    '.mlmodel': 'a Core ML model', '.mlpackage': 'a Core ML model', '.engine': 'a TensorRT engine',
    '.litertlm': 'a LiteRT model', '.task': 'a MediaPipe model'}
_ORBAX = ('_CHECKPOINT_METADATA', '_METADATA', 'manifest.ocdbt', 'ocdbt.process_0')


def instead(folder: storage.Path | str) -> str:
  """What a folder is instead of a checkpoint, and what to do: the second half of a sentence.

  Args:
    folder: that lacks what was looked for.
  """
  folder = storage.Path(folder)
  if folder.exists() and not folder.fs.isdir(str(folder)):
    return 'it is a file: name the folder of a Hugging Face checkpoint, or a .gguf file'
  paths = list(folder.iterdir())
  names = [path.name for path in paths]
  if not names:
    return 'it is empty: name the folder of a Hugging Face checkpoint'
  return (_adapter(folder, names) or _place_within(folder, names) or _other_format(names) or
          'use the folder of a Hugging Face checkpoint in safetensors (`save_pretrained` writes '
          'one)')


def instead_of_tokenizer(folder: storage.Path | str) -> str:
  """What a folder without tokenizer.json is, and what to do: the second half of a sentence."""
  names = {path.name for path in storage.Path(folder).iterdir()}
  slow = sorted(names & {'tokenizer.model', 'spiece.model', 'vocab.json', 'vocab.txt',
                         'tekken.json', 'tiktoken.model', 'qwen.tiktoken'})
  if slow and ('config.json' in names or len(slow) == len(names)):
    return (f'it has a tokenizer in another format ({slow[0]}): convert it with '
            '`AutoTokenizer.from_pretrained(folder).save_pretrained(folder)` of transformers')
  if 'config.json' in names:
    return 'it has weights without a tokenizer: copy the tokenizer\'s files of the model into it'
  return instead(folder)


def pointer(path: storage.Path) -> str | None:
  """What to do about a file that is only git-LFS's pointer to one; None if it is not."""
  try:
    size = path.fs.size(str(path))
    if size is None or size > _POINTER_BYTES or not path.read_bytes().startswith(_POINTER):
      return None
  except OSError:
    return None
  return (f'{path} is a pointer of git-LFS, not the file itself: run `git lfs pull` in its '
          'repository.')


def _adapter(folder: storage.Path, names: Sequence[str]) -> str | None:
  if 'adapter_config.json' not in names:
    return None
  base = _field(folder / 'adapter_config.json', 'base_model_name_or_path')
  return (f'it is an adapter (LoRA or the like) of {base or "another model"}: merge it into that '
          'model (`merge_and_unload` of peft), save the result with `save_pretrained`, and name '
          'its folder')


def _place_within(folder: storage.Path, names: Sequence[str]) -> str | None:
  """The folder or file in it that should have been named."""
  if 'snapshots' in names:
    snapshots = [path.name for path in (folder / 'snapshots').iterdir()]
    main = folder / 'refs' / 'main'
    current = main.read_text().strip() if main.exists() else ''
    chosen = current if current in snapshots else snapshots[-1] if snapshots else ''
    return (f'it is the cache of a hub: name {folder / "snapshots" / chosen}' if chosen else
            'it is an empty cache of a hub: download the model')
  if any(name.startswith('models--') for name in names):
    return 'it is the cache of a hub: name a folder in the snapshots of one of its models--...'
  if gguf := sorted(name for name in names if name.endswith('.gguf')):
    return f'it holds GGUF: name the file {folder / gguf[0]}'
  for name in ('model', *names):
    if name in names and (folder / name / 'config.json').exists():
      return f'name the folder {folder / name} in it'
  return None


def _other_format(names: Sequence[str]) -> str | None:
  if any(name in _ORBAX for name in names):
    return ('it is an Orbax checkpoint: name the `model` folder that a finished stage exports, or '
            'convert it to safetensors')
  if 'model_index.json' in names:
    return 'it is a pipeline of diffusers, which makes images: name a language model'
  for end, what in _FORMATS.items():
    if any(name.endswith(end) for name in names):
      return f'it holds {what}: use a checkpoint in safetensors'
  if 'params.json' in names and any(name.startswith('consolidated') for name in names):
    return ('it is in the original format of its authors (params.json, consolidated weights): use '
            'the version for transformers')
  pickles = sorted(name for name in names if name.endswith(_PICKLES))
  if pickles:
    return (f'its weights are pickles ({pickles[0]}), which can run code and are not read: load '
            'them with transformers where you trust them and write safetensors with '
            '`save_pretrained`')
  return None


def _field(path: storage.Path, name: str) -> Any:
  try:
    value = json.loads(path.read_text())
    return value.get(name) if isinstance(value, dict) else None
  except (OSError, ValueError, RecursionError):
    return None
