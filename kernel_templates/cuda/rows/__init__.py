"""What happens to many tokens at once between matrix products: a row is one token of one text.

Every kernel is given rows by their number, in neighbouring memory. float32: the residual stream x [rows, hidden] and
what products give; float16: what products and attention read.
"""
