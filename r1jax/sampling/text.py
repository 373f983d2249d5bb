"""Text in and text out of the rollout engine: prompts to the device, completions from it."""
from collections.abc import Sequence
import itertools
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
  lengths = mask.astype(bool).sum(1)
  return [
      Completion(tokenizer.decode_completion(row[:length], stop_ids), int(length), not done)
      for row, length, done in zip(tokens, lengths, finished.tolist())]


def read_rollout(
    rollout: Rollout, owners: np.ndarray, tokenizer: Tokenizer, stop_ids: Sequence[int],
    mesh: jax.sharding.Mesh | None,
) -> list[Completion]:
  """All completions of a rollout, on all hosts; each host decodes those of the groups it owns.

  All hosts must call this together.

  Args:
    rollout: N completions of B groups.
    owners: [B] int, the host that owns each group, from `sharding.owners`.
    tokenizer: decodes the tokens.
    stop_ids: tokens that end a completion.
    mesh: the mesh that the rollout is on; None: one device.

  Returns:
    N completions, a group's together.
  """
  tokens, mask, finished = sharding.own_rows(
      (rollout.tokens, rollout.mask, rollout.finished), mesh, owners == hosts.index())
  own = read_completions(tokens, mask, finished, tokenizer, stop_ids)
  by_host = [iter(completions) for completions in hosts.gather(own)]
  group_size = rollout.tokens.shape[0] // owners.size
  return [completion for owner in owners
          for completion in itertools.islice(by_host[owner], group_size)]
