"""analysis: figures, a table and a short verdict from the run folders that pdslurm wrote; imports pdslurm.results and, for models'
sizes, pdslurm.model, neither of which needs more than the standard library."""
