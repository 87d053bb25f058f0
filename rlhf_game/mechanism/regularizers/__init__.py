"""Regularisers: what it costs to leave the reference."""
