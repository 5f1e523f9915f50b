rule pretrain_run:
    input:
        pretrain_inputs,
        recompute=recompute("pretrain"),
    output:
        "<pretrain>/{run}/manifest.parquet",
    log:
        "<logs>/pretrain/{run}.log",
    conda:
        "../../envs/gpu.yaml"
    threads: 1
    resources:
        mem_mb=growing_mem(16000),
        runtime=growing_time(480),
    shell:
        "slidemill pretrain --run {wildcards.run} --threads {threads} > {log} 2>&1"


rule pretrain:
    input:
        stage_files("pretrain"),
