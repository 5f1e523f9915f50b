rule tiles_bucket:
    input:
        cohort="<cohort>/buckets/{bucket}.parquet",
        tissue="<tissue>/buckets/{bucket}.parquet",
        recompute=recompute("tiles"),
    output:
        "<tiles>/{run}/buckets/{bucket}.parquet",
    log:
        "<logs>/tiles/{run}/{bucket}.log",
    conda:
        "../../envs/cpu.yaml"
    envmodules:
        *MODULES,
    threads: 4
    resources:
        mem_mb=mem_mb("tiles"),
        runtime=minutes("tiles"),
    params:
        slides=bucket_digest,
    shell:
        "slidemill tiles --run {wildcards.run} --bucket {wildcards.bucket} "
        "--threads {threads} > {log} 2>&1"


rule tiles_manifest:
    input:
        tiles_buckets,
    output:
        "<tiles>/{run}/manifest.parquet",
    log:
        "<logs>/tiles/{run}/manifest.log",
    conda:
        "../../envs/cpu.yaml"
    envmodules:
        *MODULES,
    params:
        max_failed=PLAN.config.cohort.max_failed,
    shell:
        "slidemill tiles --run {wildcards.run} --gather > {log} 2>&1"


rule tiles:
    input:
        stage_files("tiles"),
