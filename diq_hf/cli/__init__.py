"""`diq`: words of a command line in, calls of the library out.

`__main__` holds the commands, `app` what they share (`--config`, `--debug`, errors in one line). Imports everything.
"""
