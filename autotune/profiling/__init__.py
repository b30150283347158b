"""Profiles: recorded by running Nsight Compute, matched to our problems, stored, and diagnosed."""
