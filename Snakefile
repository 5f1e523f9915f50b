# The workflow itself is in workflow/Snakefile; this file lets `snakemake` find it from here.
include: "workflow/Snakefile"


# An included file does not set the default target.
workflow.default_target = "all"
