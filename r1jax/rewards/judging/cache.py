"""A folder that keeps the replies of a server, so that a resumed run asks nothing twice."""
from collections.abc import Mapping
import hashlib
import threading
from typing import Any

from r1jax.rewards.judging.judge import Reply
from r1jax.runtime import checksums
from r1jax.runtime.storage import Path, to_json


class ReplyCache:
  """Replies by what they depend on, a file each, on a disk or in a bucket.

  A file that is damaged, or cannot be read, counts as absent; one that cannot be written is told of
  by `fault`, and nothing is lost but the time to ask again.

  Attributes:
    fault: the last error of writing; None without one.
  """

  def __init__(self, folder: Path):
    """Opens a folder, which need not exist."""
    self._folder = folder
    self._writing = threading.Lock()
    self.fault: Exception | None = None

  @staticmethod
  def key(url: str, request: Mapping[str, Any], vote: int) -> str:
    """The name of a reply: a hash of all that it depends on."""
    return hashlib.sha256(to_json([url, dict(request), vote]).encode(
        'utf-8', 'backslashreplace')).hexdigest()

  def get(self, key: str) -> Reply | None:
    """The reply of this key, if there is one."""
    try:
      found = checksums.unseal(self._path(key).read_bytes())
      if found['key'] != key or not isinstance(found['text'], str):
        return None
      return Reply(found['text'], bool(found['truncated']))
    except Exception:    # whatever a file system raises: the server is asked again
      return None

  def put(self, key: str, reply: Reply) -> None:
    """Keeps a reply; the same one may be put twice."""
    try:
      with self._writing:
        self._path(key).write_text(checksums.seal(to_json(
            {'key': key, 'text': reply.text, 'truncated': reply.truncated})))
    except Exception as error:    # see `fault`
      self.fault = error

  def _path(self, key: str) -> Path:
    return self._folder / key[:2] / f'{key}.json'
