"""Training rules beside affine welfare: fair, by votes, learned, and stopped early."""
