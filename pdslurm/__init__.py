"""pdslurm: measure whether, and in what ratio, to disaggregate prefill and decode on a Slurm cluster."""

__version__ = "0.1.0"
