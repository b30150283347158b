"""The tuner: searches kernel templates for a problem on a device, proves the winner and records it."""
