"""The Lambda handlers that ours is compared with. Each is copied into a task root of its own."""
