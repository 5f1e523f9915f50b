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
    envmodules:
        *GPU_MODULES,
    threads: 1
    resources:
        mem_mb=mem_mb("pretrain"),
        runtime=minutes("pretrain"),
    shell:
        "slidemill pretrain --run {wildcards.run} --threads {threads} > {log} 2>&1"


rule pretrain:
    input:
        stage_files("pretrain"),
