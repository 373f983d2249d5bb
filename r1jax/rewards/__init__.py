"""Rule-based rewards of completions, computed on the host: nothing here imports jax.

Import the modules one by one, so that a worker process loads only what it needs. `suite` combines
and runs rewards; `accuracy`, `choice`, `format`, `language` and `skills` define them; `rules` calls
them in processes, `rule_worker`; `workers` compares formulas in others, `worker`; `text_statistics`
describes what a policy writes.
"""
