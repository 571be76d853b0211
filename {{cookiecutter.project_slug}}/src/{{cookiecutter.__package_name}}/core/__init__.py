"""Messages and business logic. Imports neither AWS nor Redis, and does no I/O of its own."""
