rule tiles_bucket:
    input:
        cohort="<cohort>/buckets/{bucket}.parquet",
        tissue="<tissue>/buckets/{bucket}.parquet",
        recompute=recompute("tiles", "failed"),
    output:
        "<tiles>/{run}/buckets/{bucket}.parquet",
    log:
        "<logs>/tiles/{run}/{bucket}.log",
    conda:
        "../../envs/cpu.yaml"
    threads: 4
    resources:
        mem_mb=growing_mem(4000),
        runtime=growing_time(60),
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
    params:
        max_failed=PLAN.config.cohort.max_failed,
    shell:
        "slidemill tiles --run {wildcards.run} --gather > {log} 2>&1"


rule tiles:
    input:
        stage_files("tiles"),
