rule splits:
    input:
        "<cohort>/cohort.parquet",
    output:
        "<splits>/{run}/splits.parquet",
    params:
        task=split_task,
    log:
        "<logs>/splits/{run}.log",
    conda:
        "../../envs/cpu.yaml"
    shell:
        "slidemill splits --task {params.task} > {log} 2>&1"
