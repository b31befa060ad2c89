"""What keeps the course itself in order: lint, sync, refresh, regress, results."""
