"""Exit codes of the command line, one meaning each."""

DONE = 0
FAILED = 1
"""A check did not hold."""
USER = 2
"""Something that the user can mend, said in one sentence."""
PARTIAL = 3
"""The result is there but not whole, and says so."""
INTERRUPTED = 130
"""Ctrl-C; the same command goes on or starts again."""
PIPE_CLOSED = 141
"""Whoever read our output has gone."""
