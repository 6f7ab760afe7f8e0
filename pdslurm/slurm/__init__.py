"""A plan in; a Slurm job, agents on its nodes and processes there out."""
