rule evaluate_summary:
    input:
        evaluate_features,
        recompute=recompute("evaluate"),
    output:
        "<evaluate>/{run}/summary.parquet",
    log:
        "<logs>/evaluate/{run}.log",
    conda:
        "../../envs/cpu.yaml"
    envmodules:
        *MODULES,
    threads: 1
    resources:
        mem_mb=mem_mb("evaluate"),
        runtime=minutes("evaluate"),
    shell:
        "slidemill evaluate --run {wildcards.run} --threads {threads} > {log} 2>&1"


rule evaluate_run:
    input:
        evaluate_inputs,
        recompute=recompute("evaluate"),
    output:
        "<evaluate>/{run}/metrics.parquet",
    log:
        "<logs>/evaluate/{run}.log",
    conda:
        "../../envs/cpu.yaml"
    envmodules:
        *MODULES,
    threads: evaluate_threads
    resources:
        mem_mb=mem_mb("evaluate"),
        runtime=minutes("evaluate"),
    shell:
        "slidemill evaluate --run {wildcards.run} --threads {threads} > {log} 2>&1"


rule evaluate:
    input:
        stage_files("evaluate"),
