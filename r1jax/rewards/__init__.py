"""Rule rewards of completions, on the host: nothing here imports jax.

The modules are imported one by one, so that a worker process loads only what it needs:
`suite` composes and runs rewards, `accuracy`, `format` and `language` hold them, `worker` is the
process that compares formulas, `text_statistics` describes what a policy writes.
"""
