"""llama.cpp, to measure beside ours: its C API from a wheel, a model opened in it, and a process of its own for it"""
