"""The entry points, wiring only."""
