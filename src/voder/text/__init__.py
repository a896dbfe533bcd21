"""Characters in and out."""
