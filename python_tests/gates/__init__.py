"""What the gates measure: GPU resources of every kernel, compiled ahead of time, and symbols of the CPU objects."""
