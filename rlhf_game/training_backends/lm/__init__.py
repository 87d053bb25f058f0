"""Language models and reward networks: loading, templates, sampling, scoring, averaging, checkpoints."""
