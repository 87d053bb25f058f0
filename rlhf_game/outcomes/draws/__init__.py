"""Outcomes of kind draws: exact draws of the optimum over all texts of a language model."""
