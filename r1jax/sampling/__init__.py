"""Sampling: how a token is drawn, the rollout engine, text in and text out."""
