import numpy as np

from r1jax.data.prompts import PromptBatch
from r1jax.records import Rollout
from r1jax.rewards.completion import Completion
from r1jax.sampling.text import EarlyReader, device_prompts, read_completions, read_rollout


class Letters:
  """A tokenizer whose token t reads as the letter of that number."""

  def decode_completion(self, ids, stop_ids):
    return ''.join(chr(97 + i) for i in ids if i not in stop_ids)


def test_pitfall_03_completions_are_read_by_their_masks():
  tokens = np.array([[0, 1, 9, 3], [9, 0, 0, 0], [2, 2, 2, 2]])
  mask = np.float32([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
  got = read_completions(tokens, mask, np.array([True, True, False]), Letters(), (9,))
  assert got == [Completion('ab', 3, False), Completion('', 1, False), Completion('cccc', 4, True)]


def test_completions_that_were_read_early_are_not_read_again():
  tokens = np.array([[0, 1, 9], [2, 2, 2], [9, 0, 0], [3, 9, 0]])
  mask = np.float32([[1, 1, 1], [1, 1, 1], [1, 0, 0], [1, 1, 0]])
  found = {}
  early = EarlyReader(Letters(), (9,), found.update)
  early(np.array([1, 3]), tokens[[1, 3]], np.array([3, 2]), np.array([False, True]))
  assert found == early.known == {1: Completion('ccc', 3, True), 3: Completion('d', 2, False)}
  tokens[[1, 3]] = 7    # what was read is known
  rollout = Rollout(None, tokens, mask, mask, mask, np.array([True, False, True, True]))
  got = read_rollout(rollout, np.zeros(2, int), Letters(), (9,), None, early.known)
  assert got == [Completion('ab', 3, False), found[1], Completion('', 1, False), found[3]]


def test_device_prompts_are_the_arrays_of_a_prompt_batch():
  ids = np.array([7, 3], np.int32)
  prompts = PromptBatch(np.zeros((2, 4), np.int32), np.ones(2, np.int32), ids, [{}, {}], 2, 0)
  device = device_prompts(prompts)
  assert device.tokens is prompts.prompt_tokens and device.example_ids is ids
  assert device.lengths is prompts.prompt_lengths
