"""Verifiable instructions: whether a text has so many words, no commas, a title, a given end, ...

The kinds, their names and their fields are the 25 of IFEval (Zhou et al., 2023, "Instruction-
Following Evaluation for Large Language Models", arXiv:2311.07911), so that its data and those made
like it can be read as they are. The checks are r1jax's own. They depart from those of the paper
where a policy could pass them without doing as it was told: see `text_checks` and `form_checks`.
"""
