import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from r1jax.data import packing
from r1jax.errors import UserError

SETTINGS = hypothesis.settings(deadline=None, derandomize=True, max_examples=50)

DOCUMENTS = st.lists(
    st.lists(st.tuples(st.integers(1, 99), st.sampled_from([0., 0.5, 1.])), min_size=1,
             max_size=12), max_size=30)


def split(documents):
  return ([[token for token, _ in document] for document in documents],
          [[weight for _, weight in document] for document in documents])


def unpack(packed):
  """Each row's documents as (tokens, weights, positions) tuples."""
  rows = []
  for row in range(len(packed.tokens)):
    segments = packed.segment_ids[row]
    rows.append([
        tuple(tuple(field[row][segments == segment].tolist())
              for field in (packed.tokens, packed.weights, packed.positions))
        for segment in range(1, segments.max() + 1)])
  return rows


@SETTINGS
@hypothesis.given(DOCUMENTS, st.sampled_from(['cut', 'skip']), st.integers(1, 10))
def test_every_document_is_whole_in_one_row_and_no_row_is_wasted(documents, overlong, length):
  tokens, weights = split(documents)
  packed = packing.pack(tokens, weights, row_length=length, overlong=overlong, pad_id=0)
  kept = [(t[:length], w[:length]) for t, w in zip(tokens, weights, strict=True)
          if overlong == 'cut' or len(t) <= length]
  expected = [(tuple(t), (0., *w[1:]), tuple(range(len(t)))) for t, w in kept]
  rows = unpack(packed)
  assert sorted(sum(rows, [])) == sorted(expected)
  assert packed.num_overlong == sum(len(t) > length for t in tokens)

  used = (packed.segment_ids > 0).sum(axis=1)
  for row, segments in enumerate(packed.segment_ids):
    # Segments 1, 2, ... stand side by side from the left, padding after them.
    assert (np.diff(segments[:used[row]]) >= 0).all() and not segments[used[row]:].any()
  padding = packed.segment_ids == 0
  for field in (packed.tokens, packed.positions, packed.weights):
    assert field.shape == (len(rows), length) and not field[padding].any()
  # No row's documents would have had room in an earlier row.
  for late in range(len(rows)):
    first = len(rows[late][0][0])
    assert all(used[early] + first > length for early in range(late)) and used[late] > 0


def test_best_fit_by_hand():
  documents = [[1] * 6, [2] * 8, [3] * 2, [4] * 4, [5]]
  packed = packing.pack(documents, row_length=10, overlong='error', pad_id=7)
  assert packed.tokens.tolist() == [[1] * 6 + [4] * 4, [2] * 8 + [3] * 2, [5] + [7] * 9]
  assert packed.segment_ids.tolist() == [[1] * 6 + [2] * 4, [1] * 8 + [2] * 2, [1] + [0] * 9]
  assert packed.weights.tolist() == [
      [0.] + [1.] * 5 + [0.] + [1.] * 3, [0.] + [1.] * 7 + [0., 1.], [0.] * 10]
  kinds = {field: getattr(packed, field).dtype.name for field in (
      'tokens', 'segment_ids', 'positions', 'weights')}
  assert kinds == {
      'tokens': 'int32', 'segment_ids': 'int32', 'positions': 'int32', 'weights': 'float32'}


def test_the_oldest_of_equally_full_rows_is_taken():
  packed = packing.pack(
      [[1] * 6, [2] * 6, [3] * 4, [4] * 4], row_length=10, overlong='error')
  assert packed.tokens.tolist() == [[1] * 6 + [3] * 4, [2] * 6 + [4] * 4]


@pytest.mark.parametrize('documents, weights, message', [
    ([[1], [1, 2, 3, 4]], None, 'Document 1 has 4 tokens and a row holds 3'),
    ([[1], []], None, 'Document 1 has 0 tokens'),
    ([[1, 2]], [[1.]], 'Document 0 has 2 tokens and 1 weights'),
    ([[1, 2]], [], '0 lists of weights for 1 documents'),
])
def test_bad_documents_are_refused(documents, weights, message):
  with pytest.raises(ValueError, match=message) as raised:
    packing.pack(documents, weights, row_length=3, overlong='error')
  assert isinstance(raised.value, UserError) == ('a row holds 3' in message)   # else it is a bug
  with pytest.raises(ValueError, match="overlong='drop'"):
    packing.pack([[1]], row_length=3, overlong='drop')
