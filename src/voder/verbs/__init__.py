"""What each verb of the command line does: the options in, the library called, the result printed.

Everything heavy is imported by the verb that needs it. Each `run_NAME` returns the exit code.
"""
