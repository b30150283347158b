"""One file a command; `options`, `output`, `loading` and `conversation` are what they share."""
