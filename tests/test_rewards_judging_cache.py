"""The cache of replies: what was kept is found again, what is damaged is not."""
import pytest
import runs

from r1jax.rewards.judging.cache import ReplyCache
from r1jax.rewards.judging.judge import Reply
from r1jax.runtime.storage import Path

KEY = ReplyCache.key('http://x/v1', {'model': 'm'}, 0)


def test_a_key_is_of_all_that_a_reply_depends_on():
  keys = {KEY, ReplyCache.key('http://y/v1', {'model': 'm'}, 0),
          ReplyCache.key('http://x/v1', {'model': 'n'}, 0),
          ReplyCache.key('http://x/v1', {'model': 'm'}, 1),
          ReplyCache.key('http://x/v1', {'model': 'm\ud800'}, 0)}
  assert len(keys) == 5 and KEY == ReplyCache.key('http://x/v1', {'model': 'm'}, 0)


@pytest.mark.parametrize('folder', ('memory://judge_cache', ''))
def test_what_is_put_is_found_by_another_run(folder, tmp_path):
  folder = Path(folder or tmp_path / 'cache')
  assert ReplyCache(folder).get(KEY) is None
  for reply in (Reply('Verdict: yes'), Reply('十 \ud800 \x00', truncated=True)):
    ReplyCache(folder).put(KEY, reply)
    assert ReplyCache(folder).get(KEY) == reply


def test_what_is_damaged_counts_as_absent(tmp_path):
  cache = ReplyCache(Path(tmp_path))
  cache.put(KEY, Reply('Verdict: no'))
  path = tmp_path / KEY[:2] / f'{KEY}.json'
  content = path.read_bytes()
  for position in range(0, len(content), 7):
    runs.flip(path, position, position % 8)
    assert cache.get(KEY) is None
    path.write_bytes(content[:position])
    assert cache.get(KEY) is None
    path.write_bytes(content)
  assert cache.get(KEY) == Reply('Verdict: no')
  other = ReplyCache.key('http://z/v1', {}, 0)    # a whole file under another name
  (tmp_path / other[:2]).mkdir(exist_ok=True)
  (tmp_path / other[:2] / f'{other}.json').write_bytes(content)
  assert cache.get(other) is None


def test_a_folder_that_cannot_be_written_is_told_of(tmp_path):
  (tmp_path / 'file').write_text('not a folder')
  cache = ReplyCache(Path(tmp_path / 'file'))
  cache.put(KEY, Reply('Verdict: no'))
  assert isinstance(cache.fault, OSError) and cache.get(KEY) is None
