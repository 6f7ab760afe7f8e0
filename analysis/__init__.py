"""Run folders that pdslurm wrote in; figures, a table, a report and the answer out.

Of pdslurm it imports `records` and, for the sizes of models, `plan.model`, both of the standard library alone."""
