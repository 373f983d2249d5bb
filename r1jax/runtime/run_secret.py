"""The secret that the hosts of a run share: `R1JAX_SECRET`, or a file of their workdir.

Host 0 makes the file for each start, readable by its owner only, and removes it when all have
joined. Whoever may read the workdir could change the run in it anyway.
"""
import contextlib
import hashlib
import os
import secrets

from r1jax.runtime.storage import Path

VARIABLE = 'R1JAX_SECRET'
_NAME = '.join_secret'


def leave(workdir: str) -> bytes:
  """Host 0's: makes a secret for the other hosts.

  Raises:
    OSError: it cannot be written.
  """
  if given := _given():
    return given
  secret = secrets.token_hex(32)
  path = Path(workdir) / _NAME
  if not path.is_local:
    path.write_text(secret)
    return secret.encode()
  os.makedirs(Path(workdir), exist_ok=True)
  partial = f'{path}.{os.getpid()}'
  with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 'w') as file:
    os.fchmod(file.fileno(), 0o600)
    file.write(secret)
  os.replace(partial, path)
  return secret.encode()


def find(workdir: str) -> bytes | None:
  """Another host's: the secret that host 0 has made, or None if it is not there (yet)."""
  if given := _given():
    return given
  with contextlib.suppress(OSError):
    if workdir and (content := (Path(workdir) / _NAME).read_bytes()):
      return content
  return None


def remove(workdir: str) -> None:
  """Host 0's: removes the file, if there is one."""
  if workdir:
    with contextlib.suppress(OSError):
      (Path(workdir) / _NAME).remove()


def _given() -> bytes | None:
  words = os.environ.get(VARIABLE)
  return hashlib.sha256(words.encode('utf-8', 'surrogateescape')).digest() if words else None
