"""What `push`, `tag` and `copy` have in common: places as people write them, opened, and what became of a copy."""
