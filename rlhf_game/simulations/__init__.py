"""Many games at once: studies, scenarios, measures, results and figures. Depends on ``agents`` and ``mechanism``."""
