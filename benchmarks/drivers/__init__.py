"""Processes that a benchmark measures in, one a variant; see ``processes.Driver``."""
