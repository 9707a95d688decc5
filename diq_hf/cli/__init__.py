"""`diq`: words of a command line in, calls of the library out.

One module a command, registered in `__main__`. What they share: `app` (`--config`, `--debug`, errors in one line),
`config` (the file behind `--config`), `options`, `inputs` (rows by name), `reading` (the options for that, and columns
as rows), `tokenizer`, `leaks` (what is said of them) and `outputs` (what `--output` may replace).
Imports everything, but nothing heavy before a command runs.
"""
