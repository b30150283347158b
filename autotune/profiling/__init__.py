"""What NVIDIA's profilers say about kernels: read from their files, recorded from ours, and put into words."""
