"""The optimum drawn by rejection, and every group's bill from the same proposals (KL; derived in docs/draws.md)."""
