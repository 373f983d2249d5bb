"""What every stage leaves behind: an Artifact; and how it says that it was stopped."""
from collections.abc import Mapping
import dataclasses
from typing import Any

from r1jax import checkpoint, metrics
from r1jax.models import ModelConfig, huggingface
from r1jax.models.compute import Compute
from r1jax.runtime import hosts
from r1jax.runtime.storage import Path
from r1jax.tokenization import Tokenizer


class StopRequested(Exception):
  """A stage was asked to stop, has saved what it needs to go on, and says so."""


@dataclasses.dataclass(frozen=True)
class Artifact:
  """A finished stage's folder and what its manifest says."""
  folder: Path
  manifest: checkpoint.Manifest

  @property
  def model_folder(self) -> Path:
    return self.folder / 'model'


def open_artifact(folder: str | Path) -> Artifact:
  return Artifact(Path(folder), checkpoint.read_manifest(folder))


def leave_artifact(
    workdir: Path, *, kind: str, stage: str, config_hash: str, inputs: Mapping[str, Artifact],
    model: ModelConfig, params: Any, tokenizer: Tokenizer, template: str, scores: Mapping[str, Any],
    compute: Compute, dtype: str = 'float32', more_files: tuple[str, ...] = (),
) -> Artifact:
  """Exports the model to `workdir/model` in Hugging Face form, and writes the manifest, last.

  The manifest also lists `more_files`, which are in `workdir` already.
  """
  hosts.from_first((workdir / 'model').remove)
  huggingface.export(workdir / 'model', model, params, tokenizer=tokenizer, dtype=dtype)

  def write() -> checkpoint.Manifest:
    files = tuple(f'model/{name}' for name in sorted((workdir / 'model').file_sizes()))
    manifest = checkpoint.Manifest(
        kind=kind, stage=stage, config_hash=config_hash,
        parents=tuple(artifact.manifest.config_hash for artifact in inputs.values()),
        model=model.to_dict(), tokenizer=tokenizer.source, template=template,
        files=files + more_files, scores=dict(scores), compute=compute.to_dict())
    checkpoint.write_manifest(workdir, manifest)
    return manifest
  return Artifact(workdir, hosts.from_first(write))



def draw_curves(workdir: Path) -> None:
  """Draws `curves.png` of the metrics in `workdir`."""
  hosts.from_first(lambda: metrics.plot_curves(metrics.read_metrics(workdir),
                                               workdir / 'curves.png'))
