rule splits:
    input:
        "<cohort>/cohort.parquet",
    output:
        "<splits>/{run}/splits.parquet",
    log:
        "<logs>/splits/{run}.log",
    conda:
        "../../envs/cpu.yaml"
    envmodules:
        *MODULES,
    params:
        task=split_task,
    shell:
        "slidemill splits --task {params.task} > {log} 2>&1"
