"""The main job in one command, on bundled recordings."""
