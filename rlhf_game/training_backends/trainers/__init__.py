"""Trainings by gradient and by evolution: policies, preferences, supervised data and reward models."""
