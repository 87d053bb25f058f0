"""Policies that are trained for all groups: the trainings, their draws, and what each group pays."""
