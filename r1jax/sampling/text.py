"""Text in and text out of the rollout engine: prompts to the device, completions from it."""
from collections.abc import Callable, Mapping, Sequence
import itertools
import types
from typing import Any

import jax
import numpy as np

from r1jax.data.prompts import PromptBatch
from r1jax.records import Prompts, Rollout
from r1jax.rewards.completion import Completion
from r1jax.runtime import hosts, sharding
from r1jax.tokenization import Tokenizer


def device_prompts(prompts: PromptBatch) -> Prompts:
  """The arrays of a prompt batch that a device program takes, still numpy arrays on the host."""
  arrays: Any = prompts.prompt_tokens, prompts.prompt_lengths, prompts.example_ids
  return Prompts(*arrays)


def read_completions(
    tokens: np.ndarray, mask: np.ndarray, finished: np.ndarray, tokenizer: Tokenizer,
    stop_ids: Sequence[int],
) -> list[Completion]:
  """Decodes rows of a rollout that are on the host.

  Args:
    tokens: [N, C] int.
    mask: [N, C], 1 up to and including the stop token.
    finished: [N] bool: a stop token was drawn; else the completion was cut.
    tokenizer: decodes the tokens.
    stop_ids: tokens that end a completion; they are not part of its text.

  Returns:
    N completions.
  """
  return _decode(tokens, mask.astype(bool).sum(1), finished, tokenizer, stop_ids)


def _decode(tokens, lengths, finished, tokenizer, stop_ids) -> list[Completion]:
  return [
      Completion(tokenizer.decode_completion(row[:length], stop_ids), int(length), not done)
      for row, length, done in zip(tokens, lengths, finished.tolist())]


class EarlyReader:
  """Reads the completions of a rollout that are finished while others are drawn.

  Attributes:
    known: those that were read, by their numbers of N.
  """

  def __init__(
      self, tokenizer: Tokenizer, stop_ids: Sequence[int],
      found: Callable[[Mapping[int, Completion]], None]):
    """Reads nothing yet.

    Args:
      tokenizer: decodes the tokens.
      stop_ids: tokens that end a completion.
      found: called with the completions that are read at a time.
    """
    self.known: dict[int, Completion] = {}
    self._tokenizer, self._stop_ids, self._found = tokenizer, stop_ids, found

  def __call__(
      self, rows: np.ndarray, tokens: np.ndarray, lengths: np.ndarray, finished: np.ndarray,
  ) -> None:
    """Reads completions; arguments as of `Drawing.finish`."""
    read = dict(zip(rows.tolist(), _decode(
        tokens, lengths, finished, self._tokenizer, self._stop_ids)))
    self.known |= read
    self._found(read)


def read_rollout(
    rollout: Rollout, owners: np.ndarray, tokenizer: Tokenizer, stop_ids: Sequence[int],
    mesh: jax.sharding.Mesh | None, known: Mapping[int, Completion] = types.MappingProxyType({}),
) -> list[Completion]:
  """All completions of a rollout, on all hosts; each host decodes those of the groups it owns.

  All hosts must call this together.

  Args:
    rollout: N completions of B groups.
    owners: [B] int, the host that owns each group, from `sharding.owners`.
    tokenizer: decodes the tokens.
    stop_ids: tokens that end a completion.
    mesh: the mesh that the rollout is on; None: one device.
    known: completions that need not be read any more, by their numbers of N.

  Returns:
    N completions, a group's together.
  """
  group_size = rollout.tokens.shape[0] // owners.size
  owned = owners == hosts.index()
  tokens, mask, finished = sharding.own_rows(
      (rollout.tokens, rollout.mask, rollout.finished), mesh, owned)
  numbers = np.flatnonzero(np.repeat(owned, group_size)).tolist()
  new = [place for place, n in enumerate(numbers) if n not in known]
  read = iter(read_completions(tokens[new], mask[new], finished[new], tokenizer, stop_ids))
  own = [known[n] if n in known else next(read) for n in numbers]
  by_host = [iter(completions) for completions in hosts.gather(own)]
  return [completion for owner in owners
          for completion in itertools.islice(by_host[owner], group_size)]
