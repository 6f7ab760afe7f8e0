"""What a measurement gave in; its record on disk out, and back. Standard library alone: all that `analysis` imports of pdslurm."""
