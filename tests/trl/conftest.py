from tests.outcomes.conftest import one_thread, place

__all__ = ["one_thread", "place"]
