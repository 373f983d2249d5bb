"""Judges as rewards: what a model is asked about a completion, and what its reply counts.

`question` builds what a judge reads, `verdict` reads its replies, `rubric` has lists of weighted
criteria, and `judge` puts them together; `server` and `cache` ask a model on an outside server.
"""
