"""Quantized formats and the parametric kernels over them; knows no search, no database and no model file."""
