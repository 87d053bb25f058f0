from tests.outcomes.conftest import place

__all__ = ["place"]
