"""What a folder without a checkpoint is instead, and what to do, is said in one sentence."""
import json

import pytest

from r1jax.models import huggingface
from r1jax.runtime import foreign_folders

FILES = {
    'an adapter': (
        {'adapter_config.json': json.dumps({'base_model_name_or_path': 'Qwen/Qwen3-8B'}),
         'adapter_model.safetensors': ''},
        r'an adapter \(LoRA or the like\) of Qwen/Qwen3-8B: merge it'),
    'an adapter of nothing': ({'adapter_config.json': '['}, 'an adapter .* of another model'),
    'a cache': (
        {'refs/main': 'b2\n', 'snapshots/b2/config.json': '{}', 'snapshots/a1/config.json': '{}',
         'blobs/c3': ''},
        'the cache of a hub: name .*/snapshots/b2'),
    'a cache of all models': ({'models--a--b/refs/main': ''}, 'name a folder in the snapshots'),
    'pickles': ({'pytorch_model.bin': '', 'tokenizer.model': ''},
                r'pickles \(pytorch_model.bin\), which can run code'),
    'shards of pickles': ({'pytorch_model-00001-of-00002.bin': ''}, 'pickles'),
    'original weights': ({'params.json': '', 'consolidated.00.pth': ''}, 'original format'),
    'orbax': ({'_CHECKPOINT_METADATA': '', 'params/d': ''}, 'an Orbax checkpoint'),
    'onnx': ({'model.onnx': ''}, 'an ONNX model: use a checkpoint in safetensors'),
    'mlx': ({'weights.npz': ''}, 'as MLX writes them'),
    'gguf': ({'x-Q4_K_M.gguf': '', 'README.md': ''}, 'holds GGUF: name the file .*/x-Q4_K_M.gguf'),
    'a stage': ({'stage.json': '{}', 'model/config.json': '{}'}, 'name the folder .*/model in it'),
    'the folder above': ({'qwen/config.json': '{}'}, 'name the folder .*/qwen in it'),
    'diffusers': ({'model_index.json': ''}, 'makes images'),
    'nothing': ({}, 'it is empty'),
    'anything': ({'notes.txt': ''}, 'use the folder of a Hugging Face checkpoint in safetensors'),
}


def write(folder, files):
  folder.mkdir(exist_ok=True)
  for name, text in files.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
  return folder


@pytest.mark.parametrize('name', FILES)
def test_what_a_folder_is_instead_is_said(name, tmp_path):
  files, words = FILES[name]
  folder = write(tmp_path / 'a', files)
  with pytest.raises(FileNotFoundError, match=f'config.json does not exist; .*{words}'):
    huggingface.read_config(folder)


def test_a_file_is_no_folder(tmp_path):
  (tmp_path / 'model.safetensors').write_text('')
  with pytest.raises(FileNotFoundError, match='it is a file: name the folder'):
    huggingface.read_config(tmp_path / 'model.safetensors')


def test_a_pointer_of_git_lfs_is_known_by_its_content(tmp_path):
  path = tmp_path / 'model.safetensors'
  for text, is_pointer in (('version https://git-lfs.github.com/spec/v1\noid sha256:0\n', True),
                           ('version https://git-lfs' + 'x' * 2000, False), ('', False)):
    path.write_text(text)
    note = foreign_folders.pointer(foreign_folders.storage.Path(path))
    assert (note is not None) == is_pointer
    assert not is_pointer or 'run `git lfs pull`' in note
