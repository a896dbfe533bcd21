from fetch_toys import toy, toy_files

__all__ = ["toy", "toy_files"]
