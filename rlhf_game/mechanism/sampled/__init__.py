"""Policies that are known by samples only: estimates, certificates, payments and settlements."""
