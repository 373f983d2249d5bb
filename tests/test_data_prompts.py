import json
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tokenizers

from r1jax import tokenization
from r1jax.data import prompts
from r1jax.prompting.templates import PromptFormat

SETTINGS = hypothesis.settings(deadline=None, derandomize=True, max_examples=50)


def make_tokenizer():
  """Words 'w0' ... 'w9' are the ids 0 ... 9; 10 ends a text and also pads."""
  backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(
      {**{f'w{i}': i for i in range(10)}, '<eos>': 10}, unk_token='w0'))
  backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  backend.add_special_tokens(['<eos>'])
  config = json.dumps({'eos_token': '<eos>'})
  files = {'tokenizer.json': backend.to_str(), 'tokenizer_config.json': config}
  return tokenization.Tokenizer(files, source='here')


TOKENIZER = make_tokenizer()


def make_source(lengths):
  return [{'question': ' '.join(['w1'] * n), 'answer': str(i)} for i, n in enumerate(lengths)]


def make_stream(source, **kwargs):
  settings = {'template': 'plain', 'prompts_per_batch': 4, 'max_prompt_length': 5, 'seed': 0}
  return prompts.PromptStream(source, TOKENIZER, **{**settings, **kwargs})


def batches(stream, number, counter=0):
  for _ in range(number):
    batch = stream.batch(counter)
    counter = batch.next_counter
    yield batch


def ids_of(found):
  return np.concatenate([batch.example_ids for batch in found]).tolist()


def test_each_epoch_has_every_example_once_in_an_order_of_its_own():
  pytest.importorskip('grain')
  source = make_source([3] * 20)
  ids = ids_of(batches(make_stream(source), 15))
  epochs = [ids[:20], ids[20:40], ids[40:]]
  assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
  # Equal orders have a chance of 4 in 20!.
  assert len({*map(tuple, epochs), tuple(range(20))}) == 4
  assert ids == ids_of(batches(make_stream(source), 15))
  assert ids != ids_of(batches(make_stream(source, seed=1), 15))
  assert ids_of(batches(make_stream(source, shuffle=False), 10)) == 2 * list(range(20))


@SETTINGS
@hypothesis.given(st.data())
def test_pitfall_20_the_counter_is_the_whole_position_for_any_number_of_hosts(data):
  pytest.importorskip('grain')
  lengths = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=30))
  fitting = sum(n <= 5 for n in lengths)
  hypothesis.assume(fitting)
  hosts = data.draw(st.sampled_from([n for n in (1, 2, 4) if n <= fitting]))
  settings = {
      'prompts_per_batch': hosts * data.draw(st.integers(1, fitting // hosts)),
      'seed': data.draw(st.integers(0, 2**31)), 'shuffle': data.draw(st.booleans())}
  source = make_source(lengths)
  whole = list(batches(make_stream(source, **settings), 4))
  for batch in whole:
    assert len(set(batch.example_ids.tolist())) == settings['prompts_per_batch']
    assert batch.prompt_lengths.tolist() == [lengths[i] for i in batch.example_ids]
    assert batch.examples == [source[i] for i in batch.example_ids]
  shares = [
      list(batches(make_stream(source, **settings, process_index=i, process_count=hosts), 2,
                   counter=whole[1].next_counter)) for i in range(hosts)]
  for one, parts in zip(whole[2:], zip(*shares, strict=True), strict=True):
    for field in ('prompt_tokens', 'prompt_lengths', 'example_ids'):
      joined = np.concatenate([getattr(part, field) for part in parts])
      np.testing.assert_array_equal(joined, getattr(one, field))
    assert {part.next_counter for part in parts} == {one.next_counter}
    assert {part.num_skipped for part in parts} == {one.num_skipped}


def test_overlong_prompts_are_skipped_and_counted_or_refused():
  source = make_source([3, 6, 5, 9, 1, 2, 6, 4])
  found = list(batches(make_stream(source, shuffle=False, prompts_per_batch=1), 5))
  assert ids_of(found) == [0, 2, 4, 5, 7]
  assert [batch.num_skipped for batch in found] == [0, 1, 1, 0, 1]
  assert [batch.next_counter for batch in found] == [1, 3, 5, 6, 8]
  with pytest.raises(ValueError, match='example 1 has 6 tokens and the limit is 5'):
    make_stream(source, overlong='error')
  make_stream(source, overlong='error', max_prompt_length=9)


def test_fitting_prompts_are_counted_as_far_as_asked():
  stream = make_stream(make_source([3, 6, 5, 9, 1, 2]))
  assert [stream.num_fitting(enough) for enough in (1, 3, 4, 5, 99)] == [1, 3, 4, 4, 4]


def test_no_example_is_twice_in_a_batch_at_the_seam_of_two_epochs():
  found = list(batches(make_stream(make_source([1] * 5), shuffle=False), 3))
  assert [batch.example_ids.tolist() for batch in found] == [
      [0, 1, 2, 3], [4, 0, 1, 2], [3, 4, 0, 1]]
  found = list(batches(make_stream(make_source([1, 1, 1, 6, 1]), shuffle=False), 2))
  assert [batch.example_ids.tolist() for batch in found] == [[0, 1, 2, 4]] * 2
  found = make_stream(make_source([1, 1, 1, 6, 1]), shuffle=False).batch(3)
  assert found.example_ids.tolist() == [4, 0, 1, 2] and found.next_counter == 8


@pytest.mark.parametrize('lengths', [[6] * 10, [6] * 7 + [1] * 3])
@pytest.mark.parametrize('counter', [0, 5])
def test_a_source_with_too_few_short_prompts_ends_with_an_error(lengths, counter):
  fitting = lengths.count(1)
  stream = make_stream(make_source(lengths), shuffle=False)
  with pytest.raises(ValueError, match=f'Only {fitting} of the 10 prompts .*=5 tokens'):
    stream.batch(counter)


@pytest.mark.parametrize('example, message', [
    ({'question': None}, 'question of example 1 is None: give it a text'),
    ({'question': float('nan')}, 'question of example 1 is nan'),
    ({'question': 'w1', 'messages': [{'role': 'system', 'content': 'w2'},
                                     {'role': 'user', 'content': 'w1'}]},
     "example 1 is a chat with a system message .* set template='chat'"),
])
def test_a_question_that_the_template_cannot_show_is_refused_before(example, message):
  with pytest.raises(ValueError, match=message):
    make_stream([make_source([1])[0], example, *make_source([1, 1])])


def test_pitfall_03_lengths_not_ids_tell_the_padding():
  source = [{'question': text} for text in ('w1 <eos> w2 <eos>', '<eos>', 'w1 w2 w3 w4 w5')]
  assert TOKENIZER.pad_id == TOKENIZER.eos_id
  batch = make_stream(source, shuffle=False, prompts_per_batch=3, template=PromptFormat(
      'plain', parse_control_tokens=True)).batch(0)
  assert batch.prompt_lengths.tolist() == [4, 1, 5]
  assert batch.num_spelling_control == 0
  as_text = make_stream(source, shuffle=False, prompts_per_batch=3, max_prompt_length=20).batch(0)
  assert as_text.num_spelling_control == 2 and 10 not in [
      i for row, size in zip(as_text.prompt_tokens, as_text.prompt_lengths) for i in row[:size]]
  assert batch.prompt_tokens.tolist() == [
      [1, 10, 2, 10, 10], [10, 10, 10, 10, 10], [1, 2, 3, 4, 5]]
  for array in (batch.prompt_tokens, batch.prompt_lengths, batch.example_ids):
    assert array.dtype == np.int32


@pytest.mark.parametrize('settings, message', [
    ({'prompts_per_batch': 0}, 'prompts_per_batch=0 .* 10 examples'),
    ({'prompts_per_batch': 11}, 'prompts_per_batch=11 .* 10 examples'),
    ({'process_count': 3}, 'prompts_per_batch=4 cannot be split evenly among 3 hosts'),
    ({'process_index': 2, 'process_count': 2}, 'process_index=2 is out of range: use 0 to 1'),
    ({'max_prompt_length': 0}, 'max_prompt_length.* at least 1'),
    ({'overlong': 'cut'}, "overlong='cut'"),
    ({'seed': -1}, 'seed.* at least 0'),
    ({'template': 'palin', 'overlong': 'error'}, "did you mean 'plain'"),
])
def test_impossible_settings_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    make_stream(make_source([1] * 10), **settings)


def test_a_prompt_without_tokens_is_refused():
  stream = make_stream([{'question': ''}], shuffle=False, prompts_per_batch=1)
  with pytest.raises(ValueError, match='example 0 has no tokens'):
    stream.batch(0)


def test_imports_need_no_optional_package():
  code = (
      'import sys\n'
      'from r1jax.data import array_records, gsm8k, jsonl, packing, prompts, reasoning_gym\n'
      'heavy = {"tensorflow_datasets", "array_record", "grain", "reasoning_gym", "jax"}\n'
      'sys.exit(", ".join(heavy & set(sys.modules)) or 0)')
  result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr
