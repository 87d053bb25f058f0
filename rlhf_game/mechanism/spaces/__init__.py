"""Spaces of policies: what can be trained."""
