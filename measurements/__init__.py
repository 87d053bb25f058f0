"""The scripts that write the measured tables and figures of the documentation: ``python -m measurements.NAME``."""
