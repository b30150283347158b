"""The commands, one file each; `options`, `output`, `loading` and `conversation` are shared."""
